"""Spans: what they say, what they must not say, whose child they are, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import http.server
import threading

import pytest

from junctor.errors import ConfigError
from junctor.providers.tracing import CURRENT, parse_parent, place_of
from junctor.telemetry.exporting import HttpExporter
from junctor.telemetry.otlp import Span, encode_request
from junctor.telemetry.traces import BACKLOG, Tracer
from junctor.types import Message, Request

GIVEN = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ID = "dec-0123456789abcdef01234567"
PROMPT = "the prompt that nobody may see"


class Kept:
    """An exporter in memory."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, spans) -> None:
        self.spans += spans


class Broken:
    def export(self, spans) -> None:
        raise ConnectionRefusedError


def request(**more):
    return Request(id=ID, text=PROMPT, messages=(Message("user", PROMPT),), params={"model": "auto"}, **more)


@pytest.fixture(autouse=True)
def _no_trace():
    token = CURRENT.set(None)
    yield
    CURRENT.reset(token)


async def traced(engine, tracer, headers=(), **more):
    made = engine(journal=False)
    tracer.target = made.catalogue.get
    made.listen(tracer.ended)
    asked = request(**more)
    if headers is not None:
        tracer.begin(asked, headers)
    await made.complete(asked, "auto")
    tracer.flush()
    await made.aclose()


async def test_a_request_is_a_span_and_each_call_a_child(engine) -> None:
    kept = Kept()
    made = engine(journal=False)
    made.providers["says"].down = {"cheap"}
    tracer = Tracer(kept, target=made.catalogue.get, systems={"says": "openai"})
    made.listen(tracer.ended)
    asked = request(tenant="acme")
    tracer.begin(asked, [(b"traceparent", GIVEN)])
    await made.complete(asked, "auto")
    tracer.flush()
    root, first, second = kept.spans
    assert root.trace.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent.hex() == "b7ad6b7169203331"
    assert (first.parent, second.parent) == (root.id, root.id)
    assert len({root.id, first.id, second.id}) == 3
    assert (root.name, first.name, second.name) == ("chat auto", "chat m-cheap", "chat m-good")
    assert root.attributes["gen_ai.operation.name"] == "chat"
    assert root.attributes["gen_ai.request.model"] == "auto"
    assert root.attributes["gen_ai.response.model"] == "good"
    assert root.attributes["gen_ai.usage.input_tokens"] == 10
    assert root.attributes["junctor.tenant"] == "acme"
    assert root.attributes["junctor.alias"] == "auto"
    assert first.attributes["error.type"] == first.error == "upstream_refused"
    assert second.attributes["gen_ai.provider.name"] == "openai"
    assert "error.type" not in root.attributes
    assert root.start_ns <= first.start_ns <= first.end_ns <= second.end_ns <= root.end_ns
    await made.aclose()


async def test_no_span_holds_a_prompt(engine) -> None:
    kept = Kept()
    await traced(engine, Tracer(kept), [])
    assert kept.spans
    assert "nobody may see" not in repr(kept.spans)
    assert b"nobody may see" not in encode_request(kept.spans, {}, "junctor", "1")


@pytest.mark.parametrize(("flags", "count"), [(b"01", 2), (b"00", 0)])
async def test_the_caller_decides_what_is_kept(engine, flags, count) -> None:
    kept = Kept()
    await traced(engine, Tracer(kept, sample=0.5, draw=lambda: 0.9 if count else 0.1), [(b"traceparent", GIVEN[:-2] + flags)])
    assert len(kept.spans) == count


@pytest.mark.parametrize(("drawn", "count"), [(0.49, 2), (0.51, 0)])
@pytest.mark.parametrize("headers", [[], None])
async def test_a_share_is_kept_where_nobody_decided(engine, drawn, count, headers) -> None:
    kept = Kept()
    await traced(engine, Tracer(kept, sample=0.5, draw=lambda: drawn), headers)
    assert len(kept.spans) == count


async def test_a_trace_of_an_earlier_call_is_not_taken_for_this_one(engine) -> None:
    kept = Kept()
    tracer = Tracer(kept)
    tracer.begin(Request(id="dec-ffffffffffffffffffffffff"), [(b"traceparent", GIVEN)])
    await traced(engine, tracer, None)
    assert kept.spans[0].parent == b""
    assert kept.spans[0].trace.hex().startswith(ID[4:])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ],
)
def test_a_bad_traceparent_starts_a_trace_of_its_own(value) -> None:
    assert parse_parent(value) is None


def test_a_later_version_is_read_like_the_first() -> None:
    assert parse_parent(b"cc" + GIVEN[2:] + b"-what-comes-later") == (GIVEN[3:35].decode(), GIVEN[36:52].decode(), True)


def test_upstreams_are_told_who_asks() -> None:
    found = place_of(ID, parse_parent(GIVEN), b"vendor=1", kept=False)
    assert found.headers == (
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-0123456789abcdef-01\r\ntracestate: vendor=1\r\n"
    )


@pytest.mark.parametrize("state", [b"a=1\r\nx-evil: 1", b"\xff", b"a" * 600])
def test_a_state_that_could_break_a_header_is_not_passed_on(state) -> None:
    assert place_of(ID, parse_parent(GIVEN), state, kept=True).headers.count(b"\r\n") == 1


async def test_a_collector_that_is_down_costs_nothing_but_a_count(engine, caplog) -> None:
    tracer = Tracer(Broken())
    await traced(engine, tracer, [])
    await traced(engine, tracer, [])
    assert (tracer.sent, tracer.dropped) == (0, 2)
    assert len(caplog.records) == 1, "it is said once a minute, not every time"
    assert "nobody may see" not in caplog.text


async def test_the_backlog_is_bounded(engine) -> None:
    made = engine(journal=False)
    tracer = Tracer(Kept())
    run = await made.prepare(request(), "auto")
    await run.complete()
    record = (await made.explain(ID)).outcome
    for _ in range(BACKLOG + 7):
        tracer.ended(run, record)
    assert tracer.dropped == 7
    await made.aclose()


@pytest.mark.parametrize("endpoint", ["file:///etc/passwd", "collector:4318", "http://", "ftp://x/v1/traces"])
def test_an_address_that_is_none_is_refused(endpoint) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.otlp_endpoint"):
        HttpExporter(endpoint)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_sample_is_a_share(share) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.sample"):
        Tracer(Kept(), sample=share)


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes OTLP over HTTP and keeps the bodies."""

    bodies: list[bytes]
    heads: list[dict[str, str]]
    status = 200

    def do_POST(self) -> None:
        self.heads.append({name.lower(): value for name, value in self.headers.items()})
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        if self.status == 302:
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def collector():
    class Mine(Collector):
        bodies: list[bytes] = []  # noqa: RUF012
        heads: list[dict[str, str]] = []  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Mine.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    yield Mine
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_collector_reads_what_we_write(engine, collector) -> None:
    decoded = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    tracer = Tracer(HttpExporter(collector.url, {"authorization": "Bearer x"}, "my-gateway"))
    keeping = asyncio.create_task(tracer.keep())
    made = engine(journal=False)
    tracer.target = made.catalogue.get
    made.listen(tracer.ended)
    asked = request(tenant="ünï")
    tracer.begin(asked, [(b"traceparent", GIVEN), (b"tracestate", b"v=1")])
    await made.complete(asked, "auto")
    await asyncio.sleep(0)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert collector.heads[0]["content-type"] == "application/x-protobuf"
    assert collector.heads[0]["authorization"] == "Bearer x"
    (resource,) = decoded.ExportTraceServiceRequest.FromString(collector.bodies[0]).resource_spans
    about = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert about["service.name"] == "my-gateway"
    (scope,) = resource.scope_spans
    assert scope.scope.name == "junctor"
    root, call = scope.spans
    assert root.trace_id.hex() == GIVEN[3:35].decode()
    assert (root.kind, call.kind) == (2, 3)
    assert call.parent_span_id == root.span_id
    assert root.trace_state == "v=1"
    values = {a.key: a.value for a in root.attributes}
    assert values["junctor.tenant"].string_value == "ünï"
    assert values["gen_ai.usage.output_tokens"].int_value == 5
    assert values["junctor.cost_usd"].double_value == pytest.approx(0.0002)
    assert [v.string_value for v in values["junctor.reasons"].array_value.values] == ["the cheapest", "<b>bold</b>"]
    assert not root.HasField("status")
    assert len(encode_request([], {}, "a", "b")) > 0
    await made.aclose()


def test_a_redirect_is_not_followed(collector) -> None:
    collector.status = 302
    with pytest.raises(OSError, match="302"):
        HttpExporter(collector.url).export([])
    assert len(collector.bodies) == 1


def test_errors_and_large_numbers_are_encoded() -> None:
    decoded = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    values = {"big": 2**40, "minus": -5, "yes": True, "long": "x" * 300, "none": (), "f": 1.5}
    span = Span(b"t" * 16, b"s" * 8, b"", "n" * 200, 2, 2**60, 2**60 + 1, values, "upstream_timeout")
    body = encode_request([span, span], {"service.name": "x"}, "junctor", "1")
    one, two = decoded.ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert one == two
    assert (one.status.code, one.status.message) == (2, "upstream_timeout")
    assert (one.start_time_unix_nano, one.end_time_unix_nano) == (2**60, 2**60 + 1)
    found = {a.key: a.value for a in one.attributes}
    assert (found["big"].int_value, found["minus"].int_value, found["yes"].bool_value) == (2**40, -5, True)
    assert found["long"].string_value == "x" * 300
    assert found["f"].double_value == 1.5
