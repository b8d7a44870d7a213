"""From a configuration to keys, budgets and limits: what is asked for is there, and what is unsafe is refused."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from junctor.build import build_service
from junctor.cli import app
from junctor.config import parse_config
from junctor.errors import ConfigError, UserError
from junctor.tenancy.building import build_store, build_tenancy
from junctor.tenancy.keys import seconds_of

ADMIN = "a-secret-that-is-long-enough"


def tree(**more):
    base = {
        "journal": {"path": ""},
        "providers": {"embedded": {}},
        "targets": {"t0": {"provider": "embedded", "model": "arithmetic"}},
        "policies": {"p": {"use": "fixed", "settings": {"target": "t0"}}},
        "aliases": {"auto": "p"},
    }
    return base | more


def config(tmp_path, **more):
    return parse_config(tree(**more), tmp_path)


def test_nothing_is_asked_for_so_nothing_is_there(tmp_path) -> None:
    assert build_tenancy(config(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [{"gateway": {"keys": "required"}}, {"teams": {"t": {}}}, {"gateway": {"admin_key": "env:TEST_ADMIN"}}],
    ids=["keys", "teams", "admin"],
)
def test_each_of_these_asks_for_it(tmp_path, monkeypatch, more) -> None:
    monkeypatch.setenv("TEST_ADMIN", ADMIN)
    tenancy = build_tenancy(config(tmp_path, **more))
    assert tenancy is not None
    assert tenancy.required == (more.get("gateway", {}).get("keys") == "required")
    asyncio.run(tenancy.aclose())


def test_targets_without_a_price_are_named_where_budgets_matter(tmp_path, caplog) -> None:
    for teams, told in (({"t": {"priority": 2}}, False), ({"t": {"budget_usd": 1.0}}, True)):
        tenancy = build_tenancy(config(tmp_path, teams=teams))
        assert ("no price: t0" in caplog.text) == told
        asyncio.run(tenancy.aclose())


async def test_the_service_has_it(tmp_path) -> None:
    service = build_service(config(tmp_path, gateway={"keys": "required"}))
    assert service.tenancy is not None
    await service.aclose()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example"])
def test_there_is_no_open_relay(tmp_path, host) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines") as caught:
        build_tenancy(config(tmp_path, gateway={"host": host}))
    assert caught.value.field == "gateway.keys"
    assert 'keys = "required"' in caught.value.fix
    with pytest.raises(ConfigError):
        build_tenancy(config(tmp_path), host=host)
    tenancy = build_tenancy(config(tmp_path, gateway={"host": host, "keys": "required"}))
    assert tenancy is not None
    asyncio.run(tenancy.aclose())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_on_this_machine_keys_may_be_off(tmp_path, host) -> None:
    assert build_tenancy(config(tmp_path, gateway={"host": host})) is None


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"gateway": {"admin_key": "in-clear-in-the-file"}}, "gateway.admin_key"),
        ({"gateway": {"admin_key": "env:TEST_SHORT"}}, "gateway.admin_key"),
        ({"gateway": {"admin_key": "env:TEST_NOT_SET"}}, "gateway.admin_key"),
        ({"teams": {"t": {"budget_usd": -1.0}}}, "teams.t.budget_usd"),
        ({"teams": {"t": {"soft_budget_usd": float("nan")}}}, "teams.t.soft_budget_usd"),
        ({"teams": {"t": {"requests_per_minute": 0}}}, "teams.t.requests_per_minute"),
        ({"teams": {"t": {"priority": 10}}}, "teams.t.priority"),
        ({"teams": {"t": {"models": ["nothing"]}}}, "teams.t.models"),
        ({"teams": {"t": {}}, "state": {"url": "mysql://localhost/x"}}, "state.url"),
        ({"teams": {"t": {}}, "state": {"url": "redis://:hunter2@localhost/0"}}, "state.url"),
        ({"teams": {"t": {}}, "state": {"url": "postgresql://me:hunter2@localhost/x"}}, "state.url"),
        ({"teams": {"t": {}}, "state": {"url": "sqlite:/proc/nowhere/x.db"}}, "/proc/nowhere/x.db"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, monkeypatch, more, field) -> None:
    monkeypatch.setenv("TEST_SHORT", "short")
    with pytest.raises(ConfigError) as caught:
        build_tenancy(config(tmp_path, **more))
    assert caught.value.field == field
    assert caught.value.fix
    assert "hunter2" not in str(caught.value)
    assert "in-clear" not in str(caught.value)


def test_an_address_with_a_password_is_a_reference(tmp_path, monkeypatch) -> None:
    pytest.importorskip("redis")
    monkeypatch.setenv("TEST_STATE", "redis://:hunter2@127.0.0.1:1/0")
    store = build_store(config(tmp_path, state={"url": "env:TEST_STATE"}))
    assert type(store).__name__ == "RedisStore"


def test_lengths_of_time() -> None:
    assert [seconds_of(text, "x") for text in ("90s", "15m", "12h", "30d", "2w", "1.5h")] == [
        90,
        900,
        43_200,
        2_592_000,
        1_209_600,
        5400,
    ]
    for text in ("", "h", "10", "-1h", "1y", "nan d"):
        with pytest.raises(UserError):
            seconds_of(text, "expires")


@pytest.fixture
def run(tmp_path):
    """The command line over a configuration with a team."""
    path = tmp_path / "junctor.yaml"
    path.write_text(json.dumps(tree(gateway={"keys": "required"}, teams={"t": {"budget_usd": 5.0}})))

    def junctor(*words: str):
        found = CliRunner().invoke(app, [*words, "--config", str(path)])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.stdout

    return junctor


def test_the_command_line_makes_lists_shows_rotates_and_revokes(run, tmp_path) -> None:
    made = json.loads(run("keys", "create", "--name", "ci", "--team", "t", "--model", "auto", "--budget-usd", "2", "--json"))
    id_, key = made["record"]["id"], made["key"]
    assert key.startswith(f"jk-{id_}-")
    assert "only time" in run("keys", "create", "--expires", "30d")
    rows = json.loads(run("keys", "list", "--json"))
    assert {row["id"] for row in rows} >= {id_}
    assert len(rows) == 2
    assert key.rpartition("-")[2] not in json.dumps(rows)
    listed = run("keys", "list")
    assert id_ in listed
    assert "2 a month" in listed
    shown = json.loads(run("keys", "show", id_, "--json"))
    assert (shown["name"], shown["models"], shown["state"], shown["spent_usd"]) == ("ci", ["auto"], "active", 0.0)
    rotated = json.loads(run("keys", "rotate", id_, "--grace", "1h", "--json"))
    assert rotated["key"] != key
    assert id_ in run("keys", "revoke", f"jk-{id_}")
    assert id_ not in run("keys", "list")
    assert "revoked" in run("keys", "list", "--all")
    log = [entry["action"] for entry in json.loads(run("audit", "--json"))]
    assert log == ["key.created", "key.created", "key.rotated", "key.revoked"]
    assert "key.rotated" in run("audit", "-n", "2")
    assert key.rpartition("-")[2] not in run("audit", "--json")
    assert (tmp_path / "junctor.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("keys", "create", "--team", "nobody"), "team"),
        (("keys", "create", "--model", "nothing"), "model"),
        (("keys", "create", "--expires", "soon"), "expires"),
        (("keys", "create", "--period", "year"), "key"),
        (("keys", "show", "nobody"), "id"),
        (("keys", "rotate", "nobody"), "id"),
        (("keys", "revoke", "nobody"), "id"),
    ],
)
def test_its_mistakes_are_named(run, words, field) -> None:
    with pytest.raises(UserError) as caught:
        run(*words)
    assert caught.value.field == field
    assert caught.value.fix


def test_a_revoked_key_is_not_rotated(run) -> None:
    id_ = json.loads(run("keys", "create", "--json"))["record"]["id"]
    run("keys", "revoke", id_)
    with pytest.raises(UserError, match="is revoked"):
        run("keys", "rotate", id_)
