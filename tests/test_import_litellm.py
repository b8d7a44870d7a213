"""`junctor import litellm`: what becomes of each part of such a file, and that nothing of it is lost without a word."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.build import build_engine
from junctor.cli.from_litellm import translate
from junctor.cli.importing import toml_of
from junctor.config import load_config, parse_config
from junctor.errors import ConfigError
from junctor.types import Message, Request, plan_targets

CONFIG = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://my-endpoint-europe.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: "2024-08-01-preview"
      rpm: 6
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-ca
      api_base: https://my-endpoint-canada.openai.azure.com/
      api_key: "os.environ/AZURE_API_KEY_CA"
      rpm: 18
      temperature: 0.2
  - model_name: claude
    litellm_params:
      model: anthropic/claude-3-5-haiku-20241022
      api_key: sk-ant-canary-000
      max_tokens: 1024
      input_cost_per_token: 0.0000008
      output_cost_per_token: 0.000004
      drop_params: true
      tags: ["paid"]
    model_info: {max_input_tokens: 200000, max_output_tokens: 8192, supports_vision: true, cache_read_input_token_cost: 8.0e-8}
  - model_name: local
    litellm_params: {model: ollama_chat/llama3.1, api_base: "http://localhost:11434", timeout: 30}
  - model_name: llama
    litellm_params: {model: hosted_vllm/meta-llama/Llama-3.1-8B-Instruct, api_base: "http://10.0.0.5:8000/v1", api_key: none}
  - model_name: flash
    litellm_params: {model: gemini/gemini-2.0-flash, api_key: os.environ/GEMINI_API_KEY}
  - model_name: "router"
    litellm_params: {model: openrouter/meta-llama/llama-3-70b-instruct}
  - model_name: plain
    litellm_params: {model: gpt-4o-mini, organization: org-1}
  - model_name: rock
    litellm_params: {model: bedrock/converse/anthropic.claude-3, aws_region_name: eu-west-1, aws_secret_access_key: sk-aws}
  - model_name: embed
    litellm_params: {model: openai/text-embedding-3-small}
    model_info: {mode: embedding}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*"}
  - model_name: vertex
    litellm_params: {model: vertex_ai/gemini-pro, vertex_project: p}
  - litellm_params: {model: gpt-4}

router_settings:
  routing_strategy: latency-based-routing
  num_retries: 2
  timeout: 45
  allowed_fails: 3
  cooldown_time: 30
  model_group_alias: {"gpt-4": "gpt-4o", "broken": "nobody"}
  fallbacks: [{"gpt-4o": ["claude", "missing"]}, {"flash": ["plain"]}]
  redis_host: os.environ/REDIS_HOST

litellm_settings:
  cache: true
  cache_params: {type: redis-semantic, ttl: 600, similarity_threshold: 0.8}
  max_budget: 100
  budget_duration: 30d
  success_callback: ["langfuse", "prometheus"]
  set_verbose: false

general_settings:
  master_key: sk-1234-canary
  database_url: os.environ/DATABASE_URL
  alerting: ["slack"]

environment_variables: {LANGFUSE_KEY: canary-env}
guardrails: [{guardrail_name: presidio}]
"""


@pytest.fixture
def made(junctor, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    ran = junctor("import", "litellm", "config.yaml")
    assert ran.code == 0, ran.err
    return (tmp_path / "junctor.toml"), ran


def test_it_loads_and_holds_what_was_there(made) -> None:
    path, ran = made
    config = load_config(path)
    assert "9 targets, 10 aliases -> junctor.toml" in ran.out
    gpt = config.targets["gpt-4o@own"]
    assert [(d.model, d.weight) for d in gpt.deployments] == [("gpt-4o-eu", 6.0), ("gpt-4o-ca", 18.0)]
    assert gpt.balance == "peak-ewma"
    azure = config.providers[gpt.deployments[0].provider]
    assert azure.settings == {
        "base_url": "https://my-endpoint-europe.openai.azure.com",
        "api_version": "2024-08-01-preview",
        "api_key": "env:AZURE_API_KEY_EU",
    }
    claude = config.targets["claude@own"]
    assert (claude.upstream_model, dict(claude.settings)) == ("claude-3-5-haiku-20241022", {"max_tokens": 1024})
    assert (claude.price.input_usd_per_mtok, claude.price.output_usd_per_mtok) == (0.8, 4.0)
    assert claude.price.cached_input_usd_per_mtok == 0.08
    assert (claude.limits.context_tokens, claude.limits.output_tokens) == (200_000, 8192)
    assert config.providers["anthropic"].kind == "anthropic"
    local = config.targets["local@own"]
    assert config.providers[local.provider].settings == {"base_url": "http://localhost:11434/v1"}
    assert (local.upstream_model, local.limits.timeout_s) == ("llama3.1", 30.0)
    llama = config.targets["llama@own"]
    assert llama.upstream_model == "meta-llama/Llama-3.1-8B-Instruct"
    assert "api_key" not in config.providers[llama.provider].settings
    assert config.targets["router@own"].upstream_model == "meta-llama/llama-3-70b-instruct"
    assert config.providers["openrouter"].settings["api_key"] == "env:OPENROUTER_API_KEY"
    assert config.providers[config.targets["plain@own"].provider].settings["headers"] == {"OpenAI-Organization": "org-1"}
    rock = config.targets["rock@own"]
    assert rock.upstream_model == "anthropic.claude-3"
    assert config.providers[rock.provider].settings == {
        "region": "eu-west-1",
        "access_key_id": "env:AWS_ACCESS_KEY_ID",
        "secret_access_key": "env:AWS_SECRET_ACCESS_KEY",
    }
    assert config.targets["embed@own"].capabilities == {"embeddings"}


def test_settings_of_the_gateway(made) -> None:
    config = load_config(made[0])
    assert (config.gateway.keys, config.gateway.admin_key, config.gateway.deadline_s) == (
        "required",
        "env:JUNCTOR_ADMIN_KEY",
        45.0,
    )
    assert config.retries.most == 2
    assert (config.health.failures, config.health.base_s) == (4, 30.0)
    assert (config.caches["replies"].kind, config.caches["replies"].ttl_s) == ("semantic", 600.0)
    assert (config.teams["everybody"].budget_usd, config.teams["everybody"].period) == (100.0, "month")
    assert config.aliases["gpt-4"].targets == config.aliases["gpt-4o"].targets == ("gpt-4o@own", "claude@own")
    assert config.aliases["flash"].cache == "replies"
    assert set(config.aliases) == {"gpt-4o", "claude", "local", "llama", "flash", "router", "plain", "rock", "embed", "gpt-4"}


def test_it_decides_as_they_did(made) -> None:
    engine = build_engine(load_config(made[0]), dry_run=True)
    request = Request(id="r", text="hi", messages=(Message("user", "hi"),))
    assert plan_targets(engine.route(request, "gpt-4o").decision.plan) == ("gpt-4o@own", "claude@own")


def test_nothing_is_dropped_without_a_word(made) -> None:
    path, ran = made
    text = path.read_text()
    for said in (
        "model_list[10]: 'anthropic/*' is a pattern",
        "model_list[11]: Vertex AI signs calls",
        "model_list[12]: has no model_name",
        "model_list[2].drop_params",
        "model_list[2].litellm_params.tags",
        "model_list[2].model_info.supports_vision",
        "fallbacks of 'gpt-4o': names 'missing'",
        "router_settings.model_group_alias.broken",
        "router_settings.redis_host: for state that replicas share",
        "litellm_settings.cache_params.type: 'redis-semantic'",
        "litellm_settings.cache_params.similarity_threshold",
        "litellm_settings.success_callback: langfuse",
        "litellm_settings.success_callback: prometheus: is on by itself",
        "litellm_settings.set_verbose",
        "general_settings.database_url",
        "general_settings.alerting",
        "guardrails: see [guards]",
        "environment_variables.LANGFUSE_KEY: export LANGFUSE_KEY",
    ):
        assert f"#   {said}" in text, said
        assert said.partition(":")[0] in ran.err
    assert "differs between deployments" not in text


def test_keys_in_clear_are_never_copied(made) -> None:
    path, ran = made
    for secret in ("sk-ant-canary-000", "sk-aws", "sk-1234-canary", "canary-env"):
        assert secret not in path.read_text() + ran.out + ran.err
    assert (
        "model_list[2].litellm_params.api_key: held a key in clear, which was not copied: export ANTHROPIC_API_KEY"
        in path.read_text()
    )


def test_it_never_writes_over_a_file(made, junctor) -> None:
    ran = junctor("import", "litellm", "config.yaml")
    assert ran.code == 2
    assert "exists already" in ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [("model_list: []", "no model that can be called"), ("- 1", "holds no settings"), ("a: [", "cannot be read as YAML")],
)
def test_what_is_no_such_file(junctor, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    ran = junctor("import", "litellm", "c.yaml", "--out", "o.toml")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "o.toml").exists()


def test_tables_still_need_an_out(junctor, tmp_path: Path) -> None:
    ran = junctor("import", "journal", "x")
    assert ran.code == 2
    assert "--out" in ran.err


def test_a_plain_file_needs_no_alias(tmp_path: Path) -> None:
    tree = translate(yaml.safe_load("model_list: [{model_name: a, litellm_params: {model: gpt-4o}}]")).tree
    assert set(tree) == {"providers", "targets"}
    assert parse_config(tree, tmp_path).targets["a"].upstream_model == "gpt-4o"


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)
params = st.fixed_dictionaries(
    {
        "model": st.sampled_from(
            ["gpt-4o", "azure/x", "anthropic/c", "groq/m", "hosted_vllm/v", "unknown/m", "ollama/l", "bedrock/b"]
        )
    },
    optional={
        "api_base": st.sampled_from(["http://127.0.0.1:1/v1", "https://x.example/", "no address"]),
        "api_key": st.sampled_from(["os.environ/A_KEY", "sk-canary", ""]),
        "rpm": st.integers(0, 10),
        "weight": st.integers(0, 3),
        "temperature": st.floats(0, 2),
        "timeout": st.integers(-1, 100),
        "organization": names,
    },
)
models = st.lists(st.fixed_dictionaries({"model_name": names, "litellm_params": params}), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(models, st.data())
def test_whatever_comes_out_loads(entries, data) -> None:
    known = [entry["model_name"] for entry in entries]
    pick = st.sampled_from(known)
    source = {
        "model_list": entries,
        "litellm_settings": {"cache": data.draw(st.booleans()), "num_retries": data.draw(st.integers(-1, 3))},
        "router_settings": {
            "fallbacks": [{data.draw(pick): [data.draw(pick)]}],
            "model_group_alias": {data.draw(names): data.draw(pick)},
        },
    }
    try:
        tree = translate(source).tree
    except ConfigError:
        return
    text = toml_of(tree)
    assert "canary" not in text
    config = parse_config(tomllib.loads(text), Path())
    build_engine(config, dry_run=True)
