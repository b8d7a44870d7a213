"""A configuration file is read strictly: each mistake is one line with the dotted path and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from junctor import sections
from junctor.config import load_config, resolve_secrets
from junctor.errors import ConfigError

GOOD = """
[gateway]
port = 9000

[journal]
path = "logs/j"
text = "digest"

[providers.up]
kind = "openai_compatible"
base_url = "http://127.0.0.1:1/v1"
api_key = "env:UP_KEY"

[targets."big@high"]
provider = "up"
model = "big"
settings = { reasoning_effort = "high" }
price = { input_usd_per_mtok = 2.5, output_usd_per_mtok = 10 }
limits = { context_tokens = 128000 }
capabilities = ["tools", "vision"]

[targets.small]
provider = "up"

[policies.smart]
artefact = "policies/smart"

[policies.plain]
use = "fixed"
settings = { target = "small" }

[aliases]
auto = "smart"
[aliases.cheap]
policy = "plain"
targets = ["small"]
default = "small"
"""


def write(tmp_path: Path, text: str, name: str = "junctor.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def test_a_good_file_becomes_a_typed_tree(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.gateway.port == 9000
    assert config.gateway.host == "127.0.0.1"
    big = config.targets["big@high"]
    assert big.price is not None
    assert big.price.cost_usd(1_000_000, 100_000) == pytest.approx(3.5)
    assert big.capabilities == {"tools", "vision"}
    assert big.upstream_model == "big"
    assert config.targets["small"].upstream_model == "small"
    assert config.aliases["auto"].policy == "smart"
    assert config.aliases["cheap"].targets == ("small",)
    assert config.path(config.journal.path) == tmp_path / "logs/j"
    assert config.providers["up"].settings["api_key"] == "env:UP_KEY"


def test_yaml_reads_the_same(tmp_path: Path) -> None:
    text = """
providers: {embedded: {}}
targets: {a: {provider: embedded}}
policies: {p: {use: fixed, settings: {target: a}}}
aliases: {auto: p}
"""
    config = load_config(write(tmp_path, text, "junctor.yaml"))
    assert config.providers["embedded"].kind == "embedded"
    assert config.aliases["auto"].policy == "p"


MISTAKES = [
    ("[gatway]\n", "gatway: is not a known key", "did you mean 'gateway'"),
    ("[gateway]\nprot = 1\n", "gateway.prot: is not a known key", "did you mean 'port'"),
    ("[gateway]\nport = 'x'\n", "gateway.port: expected `int`, got `str`", "change its value"),
    ("[gateway]\nport = 70000\n", "gateway.port: 70000 is no port", "1 to 65535"),
    ("[gateway]\ndeadline_s = -1.0\n", "gateway.deadline_s: is not a positive number", "60"),
    ("[gateway]\nmax_body_bytes = 1\n", "gateway.max_body_bytes: is under", "prompt"),
    ("[journal]\nfsync = 'sometimes'\n", "journal.fsync: invalid enum value 'sometimes'", ""),
    ("[providers.x]\nkind = 'opnai_compatible'\n", "providers.x.kind: no provider is called", "openai_compatible"),
    ("providers = 3\n", "providers: is not a table", "[providers.NAME]"),
    ("[providers]\nx = 3\n", "providers.x: is not a table", "kind"),
    ("[providers.up]\nkind='openai_compatible'\napi_key = 'sk-abc'\n", "providers.up.api_key: holds a secret in clear", "env:"),
    (
        "[providers.up.headers]\nAuthorization = 'Bearer x'\n[providers.up]\nkind='embedded'\n",
        "Authorization: holds a secret",
        "env:",
    ),
    ("[targets.a]\nprice = { usd = 1 }\nprovider='embedded'\n", "targets.a.price.usd: is not a known key", "usd_per_call"),
    ("[targets.a]\nmodel = 'x'\n", "targets.a.provider: is missing", "add it"),
    ("[targets.a]\nprovider = 'nope'\n", "targets.a.provider: names the provider 'nope'", "it has: "),
    (
        "[targets.a]\nprovider='embedded'\nkind='modle'\n[providers.embedded]\n",
        "targets.a.kind: 'modle' is not a kind of target",
        "model, agent",
    ),
    (
        "[targets.a]\nprovider='embedded'\nprice={usd_per_call=-1.0}\n[providers.embedded]\n",
        "targets.a.price.usd_per_call: is not a price",
        "0 or more",
    ),
    (
        "[targets.a]\nprovider='embedded'\nlimits={context_tokens=0}\n[providers.embedded]\n",
        "targets.a.limits.context_tokens: is not above 0",
        "no limit",
    ),
    ("[providers.embedded]\n", "targets: there is none", "add at least one"),
    ("[policies.p]\n", "policies.p: needs exactly one of", "junctor fit"),
    ("[policies.p]\nuse='fixed'\nartefact='x'\n", "policies.p: needs exactly one of", "junctor fit"),
    ("x = [1\n", "is not TOML", "mend that line"),
]


@pytest.mark.parametrize(("text", "message", "fix"), MISTAKES)
def test_each_mistake_names_its_path_and_the_fix(tmp_path: Path, text: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert message in str(caught.value)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sk-abc" not in str(caught.value)


BASE = "[providers.embedded]\n[targets.aa]\nprovider='embedded'\n[policies.p]\nuse='fixed'\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[aliases]\nauto='q'\n", "aliases.auto.policy: names the policy 'q'"),
        ("[aliases]\naa='p'\n", "aliases.aa: is also the id of a target"),
        (
            "[aliases.auto]\npolicy='p'\ntargets=['aab']\n",
            "aliases.auto: names the target 'aab', which is not in the file (did you mean 'aa'",
        ),
        ("[aliases.auto]\npolicy='p'\ndefault='zz'\n", "aliases.auto: names the target 'zz'"),
        ("[aliases.auto]\npolcy='p'\n", "aliases.auto.polcy: is not a known key (did you mean 'policy'"),
    ],
)
def test_cross_references_are_checked(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, BASE + more))
    assert message in str(caught.value)


def test_files_that_cannot_be_read_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(write(tmp_path, "a: [", "x.yaml"))
    with pytest.raises(ConfigError, match="holds no sections"):
        load_config(write(tmp_path, "- a\n", "x.yml"))


def test_secrets_are_resolved_by_reference_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP_KEY", "s3cret")
    (tmp_path / "key").write_text("from-file\n")
    tree = {"a": "env:UP_KEY", "deep": {"b": "file:key"}, "plain": "x", "n": 3}
    assert resolve_secrets(tree, "providers.up", tmp_path) == {"a": "s3cret", "deep": {"b": "from-file"}, "plain": "x", "n": 3}
    monkeypatch.delenv("UP_KEY")
    with pytest.raises(ConfigError, match=r"providers\.up\.a: refers to the environment variable UP_KEY"):
        resolve_secrets(tree, "providers.up", tmp_path)
    with pytest.raises(ConfigError, match=r"p\.b: refers to the file gone"):
        resolve_secrets({"b": "file:gone"}, "p", tmp_path)


def test_the_user_surface_grows_only_on_purpose() -> None:
    """Configuration keys are a promise: adding or renaming one must show up in a review."""
    found = {name: " ".join(section.__struct_fields__) for name, section in vars(sections).items() if name.endswith("Section")}
    assert found == {
        "GatewaySection": (
            "host port max_body_bytes deadline_s seed workers max_concurrent max_waiting keys admin_key dashboard watch_s"
        ),
        "JournalSection": "path fsync text",
        "ProviderSection": "kind settings",
        "TargetSection": "provider kind description model settings price limits capabilities deployments balance",
        "PolicySection": "artefact use settings",
        "AliasSection": "policy targets default guards cache sticky hedge trials learn",
        "StickySection": "by ttl_s margin most",
        "HedgeSection": "after_s most",
        "TrialSection": "name policy share by",
        "LearnSection": "every_s at_least hold_out tolerance folder keep",
        "StateSection": "url on_failure",
        "TeamSection": "budget_usd soft_budget_usd period requests_per_minute tokens_per_minute models priority",
        "GuardSection": "use settings",
        "CacheSection": "kind ttl_s entries megabytes threshold agreement coalesce most_temperature",
        "RetrySection": "most base_s cap_s",
        "HealthSection": "failures base_s cap_s outlier_calls outlier_errors outlier_times",
        "ResponsesSection": "keep path ttl_s entries megabytes",
        "TelemetrySection": ("otlp_endpoint otlp_headers sample service_name usd_per_cpu_hour open_metrics dashboard_hosts"),
    }


def test_the_documented_file_is_valid_and_shows_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from junctor.build import build_engine
    from junctor.types import Deployment, Limits, Message, Price, Request

    monkeypatch.setenv("JUNCTOR_ADMIN", "an admin key of a fair length")
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    text = page.split("```toml\n")[1].split("```")[0]
    config = load_config(write(tmp_path, text))
    engine = build_engine(config, dry_run=True)
    chosen = {
        said: engine.route(Request(id="r", text=said, messages=(Message("user", said),)), "plain").decision.target
        for said in ("hello", "please PROVE it")
    }
    assert chosen == {"hello": "qwen@brief", "please PROVE it": "qwen@full"}
    every = [section for name, section in vars(sections).items() if name.endswith("Section")]
    parts = [*every, Price, Limits, Deployment]
    missing = [key for section in parts for key in section.__struct_fields__ if not re.search(rf"\b{key}\b", text)]
    assert missing == []
