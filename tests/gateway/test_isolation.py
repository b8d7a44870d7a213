"""What a key shows of the gateway: its own models and its own decisions, nobody else's."""

from __future__ import annotations

from .test_keys import ADMIN, bearer, keyed

__all__ = ["keyed"]


async def get(served, path, key):
    reply = await served.session.get(served.url + path, headers=bearer(key))
    return reply.status, await reply.json()


async def test_a_decision_is_shown_to_whose_it_is(keyed, upstream):
    served, keeper = await keyed(await upstream())
    keys = [(await keeper.create({"name": "one", "tenant": tenant}))[1] for tenant in ("blue", "blue", "")]
    reply = await served.chat(headers=bearer(keys[0]))
    assert reply.status == 200
    path = f"/v1/decisions/{reply.headers['x-junctor-decision']}"
    assert [(await get(served, path, key))[0] for key in (*keys, ADMIN)] == [200, 200, 404, 200]
    said = {"decision_id": reply.headers["x-junctor-decision"], "quality": 1.0}
    for key, status in ((keys[2], 404), (keys[1], 200)):
        answer = await served.session.post(served.url + "/v1/feedback", json=said, headers=bearer(key))
        assert answer.status == status


async def test_models_are_those_of_the_key(keyed, upstream):
    served, keeper = await keyed(await upstream())
    _, narrow = await keeper.create({"name": "narrow", "models": ["t0"]})
    _, wide = await keeper.create({"name": "wide"})
    listed = [[entry["id"] for entry in (await get(served, "/v1/models", key))[1]["data"]] for key in (narrow, wide)]
    assert listed == [["t0"], ["auto", "t0"]]
