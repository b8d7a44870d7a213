"""Keys with every API: where its client puts them, what a wrong one is answered, and whose responses are whose."""

from __future__ import annotations

import asyncio

import anthropic
import openai
import pytest

from junctor.engine import Engine
from junctor.errors import Forbidden, Unauthorised
from junctor.gateway.wires.responses import owner_of
from junctor.providers.openai_compatible import OpenAICompatibleProvider
from junctor.service import Service
from junctor.tenancy.contracts import ANYONE, Hold, Principal, Tenancy
from junctor.tenancy.keys import key_in
from junctor.types import Catalogue, Target

from .conftest import completion, shared_connections


class Known(Tenancy):
    """Two keys of two callers, and one that may use nothing."""

    def identify(self, headers):
        key = key_in(headers).decode()
        if key in ("sk-a", "sk-b", "sk-none"):
            return Principal(key=key[3:], models=frozenset() if key == "sk-none" else None)
        raise Unauthorised("the key is not known")

    def enter(self, principal, request, model):
        return Hold()

    def reserve(self, hold, run):
        return None

    def settle(self, hold, run, record):
        return None


async def test_keys_are_read_where_clients_put_them(saying, gateway) -> None:
    up = await saying(completion({"content": "pong"}))
    targets = Catalogue([Target(id="auto", provider="p")])
    engine = Engine(targets, {"p": OpenAICompatibleProvider(up.url)})
    keyed = await gateway(engine=Service(engine, tenancy=Known()))

    def theirs(key: str) -> anthropic.Anthropic:
        http = shared_connections(anthropic)
        return anthropic.Anthropic(base_url=keyed.url, api_key=key, max_retries=0, http_client=http)

    def ours(key: str) -> openai.OpenAI:
        http = shared_connections(openai)
        return openai.OpenAI(base_url=keyed.url + "/v1", api_key=key, max_retries=0, http_client=http)

    def run() -> None:
        asked = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "ping"}]}
        assert theirs("sk-a").messages.create(**asked).content[0].text == "pong"
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            theirs("sk-x").messages.create(**asked)
        assert unknown.value.body["error"]["type"] == "authentication_error"
        with pytest.raises(anthropic.PermissionDeniedError) as scoped:
            theirs("sk-none").messages.create(**asked)
        assert scoped.value.body["error"]["type"] == "permission_error"
        with pytest.raises(anthropic.PermissionDeniedError):
            theirs("sk-none").messages.count_tokens(model="auto", messages=asked["messages"])
        made = ours("sk-a").responses.create(model="auto", input="ping")
        assert ours("sk-a").responses.retrieve(made.id).id == made.id
        with pytest.raises(openai.NotFoundError):
            ours("sk-b").responses.retrieve(made.id)
        with pytest.raises(openai.AuthenticationError):
            ours("sk-x").responses.retrieve(made.id)

    await asyncio.to_thread(run)


def test_owners_are_never_mixed_up() -> None:
    named = ((b"x-junctor-tenant", b"blue"),)
    owners = [
        owner_of(Principal(key="blue"), ()),
        owner_of(Principal(key="k", tenant="blue"), ()),
        owner_of(ANYONE, named),
        owner_of(ANYONE, ()),
    ]
    assert len(set(owners)) == 4
    assert owner_of(Principal(key="blue"), named) == owners[0]
    assert owner_of(Principal(key="other", tenant="blue"), named) == owners[1]
    with pytest.raises(Forbidden):
        Principal(models=frozenset()).permit("auto")
