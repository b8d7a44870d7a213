"""Requests per second of the gateway against a bare pass-through and other gateways, side by side. Loopback only.

    python benchmarks/gateway.py --seconds 5 --peers tensorzero,nemo-switchyard,portkey,litellm --peers-home PEERS --json -

Servers: a mock upstream; the bare pass-through (uvicorn + uvloop + httptools + aiohttp, one worker, no logic) in front of it;
and `junctor serve` with one worker and everything on: keys required, a budget and limits of requests and tokens on the key and
on its team, journal, metrics. junctor answers three ways, all from the same mock upstream:

    junctor   the alias `auto`: static encoder, linear utility policy over seven targets, fallbacks; and one over three targets
    proxy     a target called by its own name, as the bare pass-through is

Rounds alternate the order and medians of the rounds' own ratios are reported, so that a busy machine hurts everybody alike:
compare ratios. Added latency is at one connection: through the gateway minus straight to the mock. `cpu_us` is processor time
per request of the server's whole process tree. First token: one kept-alive connection.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tomli_w

import load
import peers
from load import Load
from peers import Peer

HERE = Path(__file__).parent
CHAT = "/v1/chat/completions"
WIDE = 16
TURNS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {
        "role": "user",
        "content": "What is the capital of France? Answer in two sentences, and mention the river that runs through it.",
    },
]
TASKS = 600
COST_WEIGHT = 0.1
TICKS = os.sysconf("SC_CLK_TCK")
ADMIN = "bench-admin-key-0123456789"
AMPLE = {"budget_usd": 1e6, "requests_per_minute": 1_000_000_000, "tokens_per_minute": 1_000_000_000_000}


def say(text: str) -> None:
    """Progress, beside the JSON."""
    print(text, file=sys.stderr, flush=True)


def body(model: str, *, stream: bool = False) -> bytes:
    """A typical short call."""
    call: dict[str, Any] = {"model": model, "messages": TURNS, "temperature": 0.2, "max_tokens": 64}
    return json.dumps(call | ({"stream": True} if stream else {}), separators=(",", ":")).encode()


def prepare(folder: Path, mock: str, encoder: str, workers: int = 1, port: int = 0) -> str:
    """Record outcomes of the embedded pool, fit the policy, write the configuration with everything on; returns a key."""
    from junctor.encoders import load_encoder
    from junctor.providers.embedded import EMBEDDED, EmbeddedProvider
    from junctor.providers.embedded.workload import make_tasks
    from junctor.recording import record_outcomes

    say(f"recording {TASKS} tasks on {len(EMBEDDED)} local targets")
    table = record_outcomes(make_tasks(TASKS, np.random.default_rng(0)), EMBEDDED, EmbeddedProvider())
    chosen = load_encoder(encoder)
    for name, ids in (("linear", table.targets.ids), ("linear-3", table.targets.ids[:3])):
        _fitted(folder / name, table.only(ids), chosen, encoder)
    targets = {target.id: _section(target) for target in EMBEDDED}
    tree = {
        "gateway": {"keys": "required", "admin_key": "env:BENCH_ADMIN", "workers": workers, "port": port},
        "journal": {"path": "junctor.journal"},
        "teams": {"bench": AMPLE},
        "providers": {"mock": {"kind": "openai_compatible", "base_url": f"{mock}/v1"}},
        "targets": targets | {"mock": {"provider": "mock", "price": {"input_usd_per_mtok": 0.5}}},
        "policies": {name: {"artefact": name} for name in ("linear", "linear-3")},
        "aliases": {
            "auto": {"policy": "linear", "targets": list(targets)},
            "auto-3": {"policy": "linear-3", "targets": list(table.targets.ids[:3])},
        },
    }
    (folder / "junctor.toml").write_text(tomli_w.dumps(tree))
    return make_key(folder / "junctor.toml")


def _fitted(folder: Path, table: Any, chosen: Any, encoder: str) -> None:
    """A linear utility policy over the targets of a table."""
    from junctor.artefact import Provenance, save_policy
    from junctor.fitting import fit_policy, policy_config

    rows = np.random.default_rng(0).permutation(TASKS)
    features = table.features(chosen.encode(table.texts))
    config = policy_config("linear", {"cost_weight": COST_WEIGHT})
    made = fit_policy(config, table, features, rows[120:], rows[:120], np.random.default_rng(0))
    save_policy(
        made.policy,
        folder,
        targets=table.targets,
        provenance=Provenance(source="the embedded pool", digest=table.digest(), seed=0, rows=TASKS),
        encoder=encoder,
        encoder_digest=chosen.digest,
    )


def make_key(config: Path) -> str:
    """A key with a budget and limits of its own, larger than any run."""
    command = [sys.executable, "-m", "junctor", "keys", "create", "--config", str(config), "--team", "bench", "--json"]
    command += ["--budget-usd", str(AMPLE["budget_usd"]), "--requests-per-minute", str(AMPLE["requests_per_minute"])]
    command += ["--tokens-per-minute", str(AMPLE["tokens_per_minute"])]
    made = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "BENCH_ADMIN": ADMIN})
    key: str = json.loads(made.stdout)["key"]
    return key


def _section(target: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(target)
    limits = {name: value for name, value in plain["limits"].items() if value is not None}
    price = {name: value for name, value in plain["price"].items() if value is not None}
    section = {"provider": "mock", "model": plain["model"], "settings": plain["settings"], "price": price}
    return {name: value for name, value in (section | {"limits": limits}).items() if value}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Server:
    """A process that serves on a port of 127.0.0.1."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it accepts connections."""
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with status {self.process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not listen on {self.port}")

    def pids(self) -> list[int]:
        """The process and all below it."""
        return tree(self.process.pid)

    def cpu_s(self) -> float:
        """Processor time used so far."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def rss_mb(self) -> float:
        """Resident memory of all of them."""
        return sum(_rss_mb(pid) for pid in self.pids())


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


@contextlib.contextmanager
def served(name: str, command: Callable[[int], Sequence[str]]) -> Iterator[Server]:
    """Start a server on a free port, stop it at the end."""
    port = free_port()
    env = {**os.environ, "BENCH_ADMIN": ADMIN}
    server = Server(name, port, subprocess.Popen(command(port), stdout=subprocess.DEVNULL, env=env))
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(15)
        if server.process.poll() is None:
            server.process.kill()


@dataclass
class Subject:
    """Something to load, and what its runs gave."""

    name: str
    server: Server
    body: bytes
    connections: int
    seconds: float
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: dict(load.BEARER))
    runs: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    guest: bool = False
    troubles: list[str] = field(default_factory=list)

    def run(self) -> None:
        """One round."""
        before = self.server.cpu_s()
        url = self.url or self.server.url + CHAT
        found = load.measure(url, self.body, self.connections, self.seconds, self.headers)
        if found.failed or not found.requests:
            said = f"{self.name}: {found.failed} of {found.requests} requests failed"
            if not self.guest:
                raise SystemExit(said)
            self.troubles.append(said)
            say(said)
        self.runs.append(found)
        self.cpu_us.append((self.server.cpu_s() - before) / max(1, found.requests) * 1e6)
        say(f"{self.name:24s} {found.rps:9.0f} req/s   p50 {found.p50_ms:.3f} ms   cpu {self.cpu_us[-1]:.0f} µs/request")

    def figures(self, against: Subject) -> dict[str, float]:
        """Medians, and the median of the rounds' ratios to another."""
        return {
            "rps": round(statistics.median(run.rps for run in self.runs), 1),
            "ratio": round(statistics.median(a.rps / b.rps for a, b in zip(self.runs, against.runs, strict=True)), 4),
            "cpu_us": round(statistics.median(self.cpu_us), 1),
            "per_cpu_second": round(1e6 / max(statistics.median(self.cpu_us), 1e-9), 1),
        }


def added(one: Subject, direct: Subject, percentile: str) -> float:
    """Median over rounds of one's latency minus the direct one's in the same round, in ms."""
    gaps: list[float] = [getattr(a, percentile) - getattr(b, percentile) for a, b in zip(one.runs, direct.runs, strict=True)]
    return round(statistics.median(gaps), 4)


def post(url: str, data: bytes, headers: Mapping[str, str] = load.BEARER) -> Any:
    """One call, to see that it answers as it should before it is loaded."""
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.headers, reply.read()


def first_token_ms(subject: Subject, count: int = 120) -> float | None:
    """Median milliseconds to the first content of a stream, on one kept-alive connection; None where that is not kept."""
    url, data, headers = subject.url or subject.server.url + CHAT, subject.body, subject.headers
    parts = urlsplit(url)
    lines = {"host": parts.netloc, "content-type": "application/json", **headers, "content-length": str(len(data))}
    head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    times = []
    with socket.create_connection(("127.0.0.1", parts.port or 80)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began, seen, first = time.perf_counter(), b"", 0.0
            sock.sendall(head.encode() + data)
            while not seen.endswith(b"0\r\n\r\n"):
                more = sock.recv(65536)
                if not more:
                    return None
                seen += more
                if not first and b'"content":' in seen:
                    first = time.perf_counter() - began
            times.append(first * 1e3)
    return round(statistics.median(times[20:]), 4)


@dataclass
class Field:
    """Who takes part: the mock, the bare pass-through, junctor, and the peers that were there."""

    mock: Server
    bare: Server
    junctor: Server
    key: str
    peers: list[tuple[Peer, Server]]

    def subjects(self, seconds: float) -> dict[str, Subject]:
        """Everything that is loaded, by name."""
        short = max(1.0, seconds / 2)
        call, stream = body("mock"), body("mock", stream=True)
        keyed = {"authorization": f"Bearer {self.key}"}
        found = {
            "bare": Subject("bare", self.bare, call, WIDE, seconds),
            "junctor": Subject("junctor", self.junctor, body("auto"), WIDE, seconds, headers=keyed),
            "junctor_3": Subject("junctor, 3 targets", self.junctor, body("auto-3"), WIDE, seconds, headers=keyed),
            "proxy": Subject("proxy", self.junctor, call, WIDE, seconds, headers=keyed),
            "bare_stream": Subject("bare, stream", self.bare, stream, WIDE, short),
            "junctor_stream": Subject("junctor, stream", self.junctor, body("auto", stream=True), WIDE, short, headers=keyed),
            "proxy_stream": Subject("proxy, stream", self.junctor, stream, WIDE, short, headers=keyed),
            "direct_1": Subject("direct, 1 conn", self.mock, call, 1, short),
            "bare_1": Subject("bare, 1 conn", self.bare, call, 1, short),
            "junctor_1": Subject("junctor, 1 conn", self.junctor, body("auto"), 1, short, headers=keyed),
            "proxy_1": Subject("proxy, 1 conn", self.junctor, call, 1, short, headers=keyed),
        }
        for peer, server in self.peers:
            sent = {**load.BEARER, **peer.headers}
            whole, streamed = body(peer.model), body(peer.model, stream=True)
            for name, data, wide, long in (
                ("", whole, WIDE, seconds),
                ("_stream", streamed, WIDE, short),
                ("_1", whole, 1, short),
            ):
                subject = Subject(peer.name + name, server, data, wide, long, peer.url, sent, guest=True)
                found[peer.name + name] = subject
        return found


def compare(field_: Field, seconds: float, rounds: int) -> dict[str, Any]:
    """All rounds; returns the figures."""
    s = field_.subjects(seconds)
    for place in range(rounds):
        say(f"round {place + 1} of {rounds}")
        order = list(s.values())
        for subject in reversed(order) if place % 2 else order:
            subject.run()
    names = ["bare", "junctor", "proxy", *(peer.name for peer, _ in field_.peers)]
    rows: dict[str, Any] = {}
    for name in names:
        streams = f"{name}_stream"
        rows[name] = s[name].figures(s["bare"]) | {
            "stream_rps": s[streams].figures(s["bare_stream"])["rps"],
            "stream_ratio": s[streams].figures(s["bare_stream"])["ratio"],
            "added_p50_ms": added(s[f"{name}_1"], s["direct_1"], "p50_ms"),
            "added_p99_ms": added(s[f"{name}_1"], s["direct_1"], "p99_ms"),
            "first_token_ms": None if s[streams].troubles else first_token_ms(s[streams]),
            "rss_mb": round(s[name].server.rss_mb(), 1),
        }
    ours = sum(run.requests for subject in s.values() if subject.server is field_.junctor for run in subject.runs)
    troubles = [said for subject in s.values() for said in subject.troubles]
    three = s["junctor_3"].figures(s["bare"])
    return {"rows": rows, "three_targets": three, "requests": ours, "troubles": troubles} | headline(rows)


def headline(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The bars of the speed table, as far as this run shows them."""
    ours, bars = rows["junctor"], {}
    for name in ("tensorzero", "nemo-switchyard"):
        if name in rows:
            bars[f"per_cpu_second_of_{name}"] = round(ours["per_cpu_second"] / rows[name]["per_cpu_second"], 3)
    if "litellm" in rows:
        bars["times_litellm"] = round(ours["rps"] / rows["litellm"]["rps"], 1)
    names = ("added_p50_ms", "added_p99_ms", "first_token_ms", "rss_mb")
    return {"ratio_bare": ours["ratio"], "ratio_stream": ours["stream_ratio"], **{name: ours[name] for name in names}, **bars}


def check_journal(path: Path, requests: int) -> int:
    """Decisions in the journal; every answered request must have one."""
    with path.open("rb") as file:
        decisions = sum(b'"kind":"decision"' in line[:60] for line in file)
    if decisions < requests:
        raise SystemExit(f"the journal holds {decisions} decisions for {requests} answered requests")
    return decisions


def started(
    names: Sequence[str], home: Path, folder: Path, mock: str, stack: contextlib.ExitStack
) -> tuple[list[Any], list[str]]:
    """The peers that are there, and a line for each that is not."""
    running, absent = [], []
    for name in names:
        port = free_port()
        try:
            peer = peers.start(name, home, folder, mock, port)
        except peers.Absent as error:
            absent.append(str(error))
            say(f"left out: {error}")
            continue
        stack.callback(peer.process.kill)
        server = Server(name, urlsplit(peer.url).port or 0, peer.process)
        server.wait()
        post(peer.url, body(peer.model), {**load.BEARER, **peer.headers})
        running.append((peer, server))
    return running, absent


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--peers", default="", help="comma-separated: tensorzero, nemo-switchyard, portkey, litellm")
    parser.add_argument("--peers-home", type=Path, default=Path("peers"), help="where their packages are (see peers.py)")
    parser.add_argument("--json", default="-", metavar="PATH", help="where the JSON goes; - is standard output")
    asked = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        mock = stack.enter_context(served("mock", lambda port: [python, str(HERE / "mock_upstream.py"), str(port)]))
        key = prepare(folder, mock.url, asked.encoder)
        forward = [python, str(HERE / "bare_passthrough.py")]
        bare = stack.enter_context(served("bare", lambda port: [*forward, str(port), mock.url + CHAT]))
        serve = [python, "-m", "junctor", "serve", "--config", str(folder / "junctor.toml"), "--port"]
        junctor = stack.enter_context(served("junctor", lambda port: [*serve, str(port)]))
        headers, _ = post(junctor.url + CHAT, body("auto"), {"authorization": f"Bearer {key}"})
        say(f"auto answers from {headers['x-junctor-target']}; load by {load.generator()}")
        names = [name for name in asked.peers.split(",") if name]
        running, absent = started(names, asked.peers_home.resolve(), folder, mock.url, stack)
        found = compare(Field(mock, bare, junctor, key, running), asked.seconds, asked.rounds)
        found["journal_decisions"] = check_journal(folder / "junctor.journal", found["requests"])
    found |= {
        "absent": absent,
        "policy": headers["x-junctor-policy"],
        "encoder": asked.encoder,
        "connections": WIDE,
        "seconds": asked.seconds,
        "rounds": asked.rounds,
        "load": load.generator(),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
    }
    text = json.dumps(found)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
