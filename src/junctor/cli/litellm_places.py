"""Where a model of LiteLLM's is called: `prefix/model` to a kind of provider, an address, and the name of its key.

Most prefixes name hosts that speak the OpenAI API. The addresses are the documented ones of each.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from junctor import registry
from junctor.errors import UnknownName

BALANCE = {
    "simple-shuffle": "weighted",
    "least-busy": "least-outstanding",
    "usage-based-routing": "least-outstanding",
    "usage-based-routing-v2": "least-outstanding",
    "latency-based-routing": "peak-ewma",
}
"""Their routing strategies and our rules of balance."""

OPENAI = "openai_compatible"
HOSTS = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "together_ai": ("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "fireworks_ai": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY"),
    "perplexity": ("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "nvidia_nim": ("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "sambanova": ("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "cohere_chat": ("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    "ollama": ("http://localhost:11434/v1", ""),
    "ollama_chat": ("http://localhost:11434/v1", ""),
}
GIVEN = frozenset(
    ("hosted_vllm", "vllm", "openai_like", "custom_openai", "litellm_proxy", "lm_studio", "llamafile", "azure_ai")
)
"""Prefixes whose address stands in the file."""
BEDROCK = ("bedrock", "bedrock_converse")
OLLAMA = ("ollama", "ollama_chat")
OWN_API = {"anthropic": ("ANTHROPIC_API_KEY",), "gemini": ("GEMINI_API_KEY",)}
NOT_HERE = {
    "vertex_ai": "Vertex AI signs calls with short-lived tokens: use gemini/ with a key",
    "vertex_ai_beta": "Vertex AI signs calls with short-lived tokens: use gemini/ with a key",
}


class Place(Struct, frozen=True):
    """A kind of provider, its address, the model's name there, and what its key is usually called.

    `name` is what the provider is called here; `settings` are further ones of its kind; `secrets`: setting -> (what stands in
    the file, what the environment variable is usually called).
    """

    name: str
    kind: str
    base_url: str
    model: str
    key_name: str
    settings: dict[str, str] = {}
    secrets: dict[str, tuple[Any, str]] = {}


def place_of(model: str, said: Any, params: dict[str, Any]) -> Place | str:
    """Where `litellm_params.model` is called, or why it is not; takes what it has used out of `params`."""
    prefix, slash, name = model.partition("/")
    if said:
        prefix, name = str(said), name if slash and prefix == said else model
    elif not slash or not _known(prefix):
        prefix, name = ("anthropic" if model.startswith("claude") else "openai"), model
    base = _address(params)
    if base and not base.startswith(("http://", "https://")):
        return f"api_base {base[:60]!r} is no address; write it out"
    own = {"azure": _azure, "bedrock": _bedrock, "bedrock_converse": _bedrock}.get(prefix)
    if own is not None:
        return own(name, base, params)
    return _own(prefix, name, base) if prefix in OWN_API else _compatible(prefix, name, base)


def _compatible(prefix: str, name: str, base: str) -> Place | str:
    """A host that speaks the OpenAI API."""
    if prefix in HOSTS:
        usual, key = HOSTS[prefix]
        if base and prefix in OLLAMA and not base.endswith("/v1"):
            base += "/v1"
        return Place(prefix.replace("_", "-"), OPENAI, base or usual, name, key)
    if prefix in GIVEN:
        if not base:
            return f"{prefix}/ needs an api_base"
        return Place(prefix.replace("_", "-"), OPENAI, base, name, "")
    return NOT_HERE.get(prefix, f"{prefix}/ has no provider here; where it speaks the OpenAI API: kind = {OPENAI!r} by hand")


def _known(prefix: str) -> bool:
    return prefix in HOSTS or prefix in GIVEN or prefix in OWN_API or prefix in NOT_HERE or prefix in ("azure", *BEDROCK)


def _address(params: dict[str, Any]) -> str:
    first, second = params.pop("api_base", None), params.pop("base_url", None)
    return str(first or second or "").rstrip("/")


def _azure(name: str, base: str, params: dict[str, Any]) -> Place | str:
    """A deployment of a resource; the newer API under /openai/v1 needs no version."""
    version = str(params.pop("api_version", None) or "")
    if not base:
        return "azure/ needs an api_base"
    if version.startswith("os.environ/"):
        return "api_version stands in the environment: write it out"
    base, newer, _ = base.partition("/openai")
    settings = {"api_version": "" if newer and not version else version} if version or newer else {}
    return Place("azure", "azure", base, name, "AZURE_API_KEY", settings)


def _bedrock(name: str, base: str, params: dict[str, Any]) -> Place | str:
    """A region of Bedrock, called with a key pair."""
    region = params.pop("aws_region_name", None) or "us-east-1"
    if str(region).startswith("os.environ/"):
        return "aws_region_name stands in the environment: write it out"
    secrets = {
        ours: (params.pop(theirs, None), usual)
        for ours, theirs, usual in (
            ("access_key_id", "aws_access_key_id", "AWS_ACCESS_KEY_ID"),
            ("secret_access_key", "aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        )
    }
    session = params.pop("aws_session_token", None)
    if session:
        secrets["session_token"] = (session, "AWS_SESSION_TOKEN")
    for route in ("converse/", "invoke/"):
        name = name.removeprefix(route)
    return Place("bedrock", "bedrock", base, name, "", {"region": str(region)}, secrets)


def _own(prefix: str, name: str, base: str) -> Place | str:
    try:
        registry.find("provider", prefix)
    except UnknownName:
        return f"no provider is called {prefix!r} here"
    return Place(prefix, prefix, base, name, OWN_API[prefix][0])
