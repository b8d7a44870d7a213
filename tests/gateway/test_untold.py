"""A field that one target has no word for, over HTTP: another takes it, or the answer says why nobody can."""

import io
import json

import pytest
from tests.providers.fakes.anthropic import KEY, FakeAnthropic

from junctor.build import build_engine
from junctor.config import load_config

CONFIG = """
[journal]
path = "{journal}"

[providers.theirs]
kind = "anthropic"
base_url = "{theirs}"
api_key = "env:THEIR_KEY"
{more}

[providers.ours]
kind = "openai_compatible"
base_url = "{ours}"

[targets.claude]
provider = "theirs"

[targets.qwen]
provider = "ours"

[targets.either]
deployments = [{{ id = "there", provider = "theirs", weight = 9 }}, {{ id = "here", provider = "ours" }}]

[policies.first]
use = "rules"
settings.default = ["claude", "qwen"]

[policies.only]
use = "rules"
settings.default = "claude"

[aliases.auto]
policy = "first"
targets = ["claude", "qwen"]

[aliases.alone]
policy = "first"
targets = ["claude"]

[aliases.stubborn]
policy = "only"
targets = ["claude", "qwen"]
"""
REASON = "seed cannot be told to it"
TURNS = [{"role": "user", "content": "ping"}]


@pytest.fixture
async def theirs():
    async with FakeAnthropic() as fake:
        yield fake


@pytest.fixture
async def serving(theirs, upstream, gateway, tmp_path, monkeypatch):
    """Starts a gateway from a configuration file over both; (served, the other upstream)."""
    monkeypatch.setenv("THEIR_KEY", KEY)

    async def start(more=""):
        ours = await upstream()
        path = tmp_path / "junctor.toml"
        path.write_text(CONFIG.format(journal=tmp_path / "j.journal", theirs=theirs.url, ours=ours.url, more=more))
        return await gateway(engine=build_engine(load_config(path))), ours

    return start


async def post(served, path, **body):
    """(response, its text) of a call."""
    data = io.BytesIO(json.dumps({"messages": TURNS, **body}).encode())
    reply = await served.session.post(served.url + path, data=data, headers={"content-type": "application/json"})
    return reply, (await reply.read()).decode()


async def shown(served, reply):
    """The page of its decision."""
    return await (await served.session.get(f"{served.url}/v1/decisions/{reply.headers['x-junctor-decision']}")).json()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_the_next_target_takes_it_and_the_reason_is_kept(serving, theirs, path, stream):
    """Nobody of the first was called; without the field it is the first that answers."""
    served, ours = await serving()
    reply, text = await post(served, path, model="auto", max_tokens=20, seed=7, stream=stream)
    assert (reply.status, theirs.seen) == (200, [])
    assert ("po" in text and "ng" in text) if stream else "pong" in text
    assert ours.bodies[0]["seed"] == 7
    page = await shown(served, reply)
    assert (page["decision"]["target"], page["refusals"]) == ("qwen", {"claude": REASON})
    assert [attempt["target"] for attempt in page["outcome"]["attempts"]] == ["qwen"]
    reply, text = await post(served, path, model="auto", max_tokens=20, stream=stream)
    assert (reply.status, (await shown(served, reply))["decision"]["target"]) == (200, "claude")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["alone", "claude"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_nobody_can_take_it_and_the_answer_says_why(serving, theirs, path, model, stream):
    """422 before anything is streamed, by alias and by name."""
    served, _ = await serving()
    more = {"input": "ping", "messages": None} if path == "/v1/responses" else {}
    reply, text = await post(served, path, model=model, max_tokens=20, seed=7, stream=stream, **more)
    assert reply.status == 422, text
    assert f"claude: {REASON}" in text
    assert theirs.seen == []


async def test_a_policy_that_wants_nobody_else_says_both_reasons(serving):
    """What the filter has against one, and what the policy has against the other."""
    served, _ = await serving()
    reply, text = await post(served, "/v1/chat/completions", model="stubborn", seed=7)
    assert reply.status == 422
    assert f"claude: {REASON}" in text
    assert "qwen: no rule" in text


async def test_of_deployments_the_one_that_can_is_called(serving, theirs):
    """However little of the work is its share."""
    served, ours = await serving()
    for _ in range(5):
        reply, _ = await post(served, "/v1/chat/completions", model="either", frequency_penalty=0.5)
        assert reply.status == 200
    assert (theirs.seen, len(ours.bodies)) == ([], 5)


async def test_what_is_ignored_goes_to_the_first(serving, theirs):
    """The operator said that it may be left out."""
    served, _ = await serving('ignore = ["seed"]')
    reply, _ = await post(served, "/v1/chat/completions", model="auto", seed=7)
    assert (reply.status, (await shown(served, reply))["decision"]["target"]) == (200, "claude")
    assert "seed" not in theirs.seen[0].json


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_found_deep_inside_moves_on_and_hurts_nobody(serving, theirs, stream):
    """A name on a message: both attempts are on the decision's page, the first target stays well; alone it is a 400."""
    served, ours = await serving()
    turns = [{"role": "user", "content": "ping", "name": "bob"}]
    for _ in range(4):
        reply, text = await post(served, "/v1/chat/completions", model="auto", messages=turns, stream=stream)
        assert reply.status == 200, text
    assert (theirs.seen, len(ours.bodies), ours.bodies[0]["messages"]) == ([], 4, turns)
    page = await shown(served, reply)
    first, second = page["outcome"]["attempts"]
    assert (first["target"], first["error"], second["target"]) == ("claude", "invalid_request", "qwen")
    assert first["detail"].startswith("messages[0].name: cannot be told")
    assert not served.engine.health
    reply, text = await post(served, "/v1/chat/completions", model="alone", messages=turns, stream=stream)
    assert (reply.status, json.loads(text)["error"]["param"]) == (400, "messages[0].name")
