"""LiteLLM's proxy configuration as ours: what has a place here is put there, what has none is named, with the reason.

Written from LiteLLM's public documentation of its configuration file. Keys in clear are never copied: a reference to an
environment variable takes their place, and the notes say which one to set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from junctor.cli.litellm_places import BALANCE, Place, place_of
from junctor.errors import ConfigError

REFERENCE = "os.environ/"
SETTINGS = frozenset(
    [
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
        "response_format",
        "tools",
        "tool_choice",
        "user",
        "service_tier",
        "logit_bias",
    ]
)
PER_TOKEN = {
    "input_cost_per_token": "input_usd_per_mtok",
    "output_cost_per_token": "output_usd_per_mtok",
    "cache_read_input_token_cost": "cached_input_usd_per_mtok",
    "cache_creation_input_token_cost": "cache_write_usd_per_mtok",
    "output_cost_per_reasoning_token": "reasoning_usd_per_mtok",
}
LIMITS = {"max_input_tokens": "context_tokens", "max_output_tokens": "output_tokens"}
MODES = {"embedding": "embeddings", "moderation": "moderations"}
SHARES = ("weight", "rpm", "tpm")
DAYS = {"s": 1 / 86_400, "m": 1 / 1_440, "h": 1 / 24, "d": 1.0, "w": 7.0, "mo": 30.0}
PERIODS = ((1.5, "day"), (10.0, "week"), (45.0, "month"))
OWN = "own"
NO_PLACE = "has no place here"
SEE_GUARDS = "see [guards] (docs/gateway/guards.md)"
OTHER_CALLBACK = "has no place here; the journal holds every decision"
CALLBACKS = {
    "prometheus": "is on by itself: GET /metrics",
    "otel": "set [telemetry] otlp_endpoint",
    "opentelemetry": "set [telemetry] otlp_endpoint",
    "presidio": SEE_GUARDS,
    "lakera_prompt_injection": SEE_GUARDS,
}
KNOWN = ("model_list", "router_settings", "litellm_settings", "general_settings", "environment_variables")


class Note(Struct, frozen=True):
    """Something to know: where it stands in their file, and what became of it."""

    where: str
    said: str


class Translated(Struct):
    """Our tree, ready to be written, what has to be done by hand, and what was left out."""

    tree: dict[str, Any]
    todo: list[Note]
    left_out: list[Note]


def translate(source: Mapping[str, Any]) -> Translated:
    """Their tree as ours; raises ConfigError when it has no models that can be called."""
    return _Translation(source).done()


class _Translation:
    def __init__(self, source: Mapping[str, Any]) -> None:
        self.source = source
        self.todo: list[Note] = []
        self.left_out: list[Note] = []
        self.providers: dict[str, dict[str, Any]] = {}
        self.targets: dict[str, dict[str, Any]] = {}
        self.tree: dict[str, Any] = {}
        self.router = dict(_table(source, "router_settings"))
        self.settings = dict(_table(source, "litellm_settings"))
        self.general = dict(_table(source, "general_settings"))

    def done(self) -> Translated:
        names = self._groups()
        if not names:
            raise ConfigError("has no model that can be called", field="model_list", fix="is it a LiteLLM proxy configuration?")
        self._general()
        self._sizes()
        cache = self._cache()
        fallbacks = self._fallbacks(names)
        self._aliases(names, fallbacks, cache)
        self._budget()
        self._rest()
        ordered = ("gateway", "retries", "health", "teams", "caches", "telemetry")
        tree = {name: self.tree[name] for name in ordered if name in self.tree}
        tree |= {"providers": self.providers, "targets": self.targets}
        tree |= {name: self.tree[name] for name in ("policies", "aliases") if self.tree.get(name)}
        return Translated(tree, self.todo, self.left_out)

    def _leave(self, where: str, why: str) -> None:
        self.left_out.append(Note(where, why))

    # Models

    def _groups(self) -> list[str]:
        """The names that clients use; their deployments are made into targets on the way."""
        groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for place, entry in enumerate(self.source.get("model_list") or ()):
            where = f"model_list[{place}]"
            if not isinstance(entry, Mapping) or not isinstance(entry.get("model_name"), str):
                self._leave(where, "has no model_name")
            elif "*" in entry["model_name"]:
                self._leave(where, f"{entry['model_name']!r} is a pattern: name each model that may be called")
            else:
                groups.setdefault(entry["model_name"], []).append((where, entry))
        return [name for name, entries in groups.items() if self._group(name, entries)]

    def _group(self, name: str, entries: list[tuple[str, Mapping[str, Any]]]) -> bool:
        made = [found for where, entry in entries if (found := self._deployment(where, entry)) is not None]
        if not made:
            return False
        target: dict[str, Any] = {}
        if len(made) == 1:
            target |= {key: made[0][key] for key in ("provider", "model")}
        else:
            shares = next((key for key in SHARES if all(found["shares"].get(key) for found in made)), None)
            target["balance"] = self._balance()
            target["deployments"] = [
                {"id": f"{found['provider']}-{i}", "provider": found["provider"], "model": found["model"]}
                | ({} if shares is None else {"weight": float(found["shares"][shares])})
                for i, found in enumerate(made, 1)
            ]
        for found, (where, _) in zip(made, entries, strict=False):
            self._settle(target, found, where)
        self.targets[name] = target
        return True

    def _settle(self, target: dict[str, Any], found: dict[str, Any], where: str) -> None:
        """What stands once for all deployments of a target: the first that says it counts."""
        for key in ("settings", "price", "limits", "capabilities"):
            if found[key] and target.setdefault(key, found[key]) != found[key]:
                self._leave(
                    f"{where}.{key}", "differs between deployments of one model; here it is one of the target: the first's"
                )

    def _deployment(self, where: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        params = dict(_table(entry, "litellm_params"))
        info = dict(_table(entry, "model_info"))
        model = params.pop("model", None)
        if not isinstance(model, str):
            self._leave(where, "has no litellm_params.model")
            return None
        place = place_of(model, params.pop("custom_llm_provider", None), params)
        if isinstance(place, str):
            self._leave(where, place)
            return None
        found = {
            "provider": self._provider(where, place, params),
            "model": place.model,
            "shares": {key: params.pop(key, None) for key in SHARES},
            "settings": {key: params.pop(key) for key in sorted(SETTINGS & set(params))},
            "price": _price(params, info),
            "limits": _limits(params, info),
            "capabilities": _capabilities(info),
        }
        self._unused(where, params, info)
        return found

    def _unused(self, where: str, params: dict[str, Any], info: dict[str, Any]) -> None:
        if params.pop("drop_params", None):
            self._leave(f"{where}.drop_params", "a target that cannot take a field is filtered out with a reason instead")
        for key in params:
            self._leave(f"{where}.litellm_params.{key}", NO_PLACE)
        silent = ("id", "db_model", "mode", "base_model", "description")
        for key in info:
            if key in silent or key.startswith("litellm_provider"):
                continue
            why = "write what it can do as capabilities = […], all of it" if key.startswith("supports_") else NO_PLACE
            self._leave(f"{where}.model_info.{key}", why)

    def _provider(self, where: str, place: Place, params: dict[str, Any]) -> str:
        """The name of the provider of a deployment; deployments of one address and key share it."""
        settings: dict[str, Any] = {"kind": place.kind} | ({"base_url": place.base_url} if place.base_url else {})
        settings |= place.settings
        for name, (value, usual) in place.secrets.items():
            settings[name] = self._secret(f"{where}.litellm_params.{name}", value, usual)
        headers = {str(key): str(value) for key, value in _table(params, "extra_headers").items()}
        params.pop("extra_headers", None)
        organisation = params.pop("organization", None)
        if organisation:
            headers["OpenAI-Organization"] = str(organisation)
        given = params.pop("api_key", None)
        key = self._secret(f"{where}.litellm_params.api_key", given, place.key_name) if given or place.key_name else ""
        if key:
            settings["api_key"] = key
        for name in [
            name for name, value in headers.items() if not (name + value).isascii() or not (name + value).isprintable()
        ]:
            del headers[name]
            self._leave(f"{where}.litellm_params: header {name!r}", "is not printable ASCII")
        if headers:
            settings["headers"] = {name: _referred(value) for name, value in headers.items()}
        for name, known in self.providers.items():
            if known == settings:
                return name
        taken = sum(name == place.name or name.startswith(f"{place.name}-") for name in self.providers)
        name = f"{place.name}-{taken + 1}" if taken else place.name
        self.providers[name] = settings
        return name

    def _secret(self, where: str, value: Any, usual: str) -> str:
        """A reference to a secret. One in clear is never copied."""
        if value is None or value == "":
            return f"env:{usual}"
        text = str(value)
        if text.startswith(REFERENCE):
            return f"env:{text.removeprefix(REFERENCE)}"
        name = usual or "UPSTREAM_API_KEY"
        if text.lower() in ("none", "null", "dummy", "fake", "empty", "sk-none", "fake-key", "na", "n/a"):
            return ""
        self.todo.append(
            Note(where, f"held a key in clear, which was not copied: export {name}=…, and take it out of that file")
        )
        return f"env:{name}"

    def _balance(self) -> str:
        strategy = self.router.get("routing_strategy", "simple-shuffle")
        return BALANCE.get(strategy, "weighted")

    # Settings

    def _general(self) -> None:
        general = dict(self.general)
        master = general.pop("master_key", None)
        if master:
            reference = self._secret("general_settings.master_key", master, "JUNCTOR_ADMIN_KEY")
            self.tree["gateway"] = {"keys": "required", "admin_key": reference}
            said = "opens the admin pages here; calls need keys of their own: junctor keys create (virtual keys are not copied)"
            self.todo.append(Note("general_settings.master_key", said))
        if general.pop("database_url", None):
            self._leave("general_settings.database_url", 'another schema; for state of ours: [state] url = "env:NAME"')
        megabytes = general.pop("max_request_size_mb", None)
        if isinstance(megabytes, (int, float)) and megabytes > 0:
            self.tree.setdefault("gateway", {})["max_body_bytes"] = int(megabytes * 1024 * 1024)
        most = general.pop("global_max_parallel_requests", None)
        if isinstance(most, int) and most > 0:
            self.tree.setdefault("gateway", {})["max_concurrent"] = most
        for key in general:
            self._leave(f"general_settings.{key}", NO_PLACE)

    def _take(self, key: str) -> Any:
        """A setting that may stand in either table; the router's counts."""
        first = self.router.pop(key, None)
        second = self.settings.pop(key, None)
        return second if first is None else first

    def _sizes(self) -> None:
        """Retries, cooldowns and times."""
        retries = self._take("num_retries")
        if isinstance(retries, int) and retries >= 0:
            self.tree["retries"] = {"most": retries}
        failures, cooldown = self._take("allowed_fails"), self._take("cooldown_time")
        health: dict[str, Any] = {}
        if isinstance(failures, int) and failures >= 0:
            health["failures"] = failures + 1
        if isinstance(cooldown, (int, float)) and cooldown > 0:
            health["base_s"] = float(cooldown)
            health["cap_s"] = max(60.0, float(cooldown))
        if health:
            self.tree["health"] = health
        deadline = self.router.pop("timeout", None)
        deadline = deadline if deadline is not None else self.settings.pop("request_timeout", None)
        self.settings.pop("request_timeout", None)
        if isinstance(deadline, (int, float)) and deadline > 0:
            self.tree.setdefault("gateway", {})["deadline_s"] = float(deadline)
        strategy = self.router.pop("routing_strategy", None)
        if strategy is not None and strategy not in BALANCE:
            self._leave(
                "router_settings.routing_strategy", f"{strategy!r} has no like here; deployments are balanced by weight"
            )

    def _cache(self) -> str:
        """The name of the cache of all models, where there is one."""
        wanted = self.settings.pop("cache", None)
        params = dict(_table(self.settings, "cache_params"))
        self.settings.pop("cache_params", None)
        if wanted is not True:
            return ""
        kind = params.pop("type", "local")
        made: dict[str, Any] = {"kind": "semantic" if str(kind).endswith("semantic") else "exact"}
        ttl = params.pop("ttl", None)
        if isinstance(ttl, (int, float)) and ttl > 0:
            made["ttl_s"] = float(ttl)
        if kind != "local":
            self._leave("litellm_settings.cache_params.type", f"{kind!r}: caches here are in each worker's memory")
        for key in params:
            why = "chosen from data here (docs/gateway/cache.md)" if key == "similarity_threshold" else NO_PLACE
            self._leave(f"litellm_settings.cache_params.{key}", why)
        self.tree["caches"] = {"replies": made}
        return "replies"

    def _fallbacks(self, names: list[str]) -> dict[str, list[str]]:
        """Who stands by for whom."""
        found: dict[str, list[str]] = {}
        for entry in self._take("fallbacks") or ():
            for name, others in entry.items() if isinstance(entry, Mapping) else ():
                found.setdefault(str(name), []).extend(str(other) for other in others)
        usual = [str(name) for name in self._take("default_fallbacks") or ()]
        if usual:
            found = {name: [other for other in usual if other != name] for name in names} | found
        if self._take("context_window_fallbacks"):
            self._leave(
                "context_window_fallbacks", "a target whose context is too small is passed over by itself: give it limits"
            )
        if self._take("content_policy_fallbacks"):
            self._leave("content_policy_fallbacks", "refused content is not asked of others")
        kept = {name: self._known(name, others, names) for name, others in found.items()}
        return {name: others for name, others in kept.items() if others}

    def _known(self, name: str, others: list[str], names: list[str]) -> list[str]:
        """Those of them that are there, once each."""
        where = f"fallbacks of {name!r}"
        if name not in names:
            self._leave(where, "is not in the model list")
            return []
        for other in others:
            if other not in names:
                self._leave(where, f"names {other!r}, which is not in the model list")
        return [other for other in dict.fromkeys(others) if other in names and other != name]

    def _aliases(self, names: list[str], fallbacks: dict[str, list[str]], cache: str) -> None:
        """A model with others behind it, or with a cache, becomes an alias of its name over targets."""
        aliases, policies = self.tree.setdefault("aliases", {}), self.tree.setdefault("policies", {})
        ids = {name: f"{name}@{OWN}" if cache or name in fallbacks else name for name in names}
        for name, id_ in ids.items():
            target = self.targets.pop(name)
            if "@" in id_ and "deployments" not in target:
                target.setdefault("model", name)
            self.targets[id_] = target
        also = {str(alias): str(_named(name)) for alias, name in _table(self.router, "model_group_alias").items()}
        self.router.pop("model_group_alias", None)
        calls = {name: name for name in names if ids[name] != name} | also
        for alias, name in calls.items():
            if name not in ids:
                self._leave(f"router_settings.model_group_alias.{alias}", f"{name!r} is not in the model list")
                continue
            if alias in self.targets:
                self._leave(f"router_settings.model_group_alias.{alias}", "is also the name of a model")
                continue
            order = [ids[name], *(ids[other] for other in fallbacks.get(name, ()))]
            policies[f"{alias}-in-order"] = {"use": "fixed", "settings": {"target": order[0], "then": order[1:]}}
            aliases[alias] = {"policy": f"{alias}-in-order", "targets": order} | ({"cache": cache} if cache else {})

    def _budget(self) -> None:
        most = self.settings.pop("max_budget", None)
        duration = self.settings.pop("budget_duration", None)
        if not isinstance(most, (int, float)) or most <= 0:
            return
        team: dict[str, Any] = {"budget_usd": float(most), "period": _period(duration)}
        self.tree["teams"] = {"everybody": team}
        said = "is the budget of the team `everybody`: make keys with --team everybody; other budgets stand in its database"
        self.todo.append(Note("litellm_settings.max_budget", said))

    def _rest(self) -> None:
        """All that nobody has taken."""
        for name in ("success_callback", "failure_callback", "callbacks"):
            for callback in _listed(self.settings.pop(name, None)):
                self._leave(f"litellm_settings.{name}: {callback}", CALLBACKS.get(callback, OTHER_CALLBACK))
        for key in self.settings:
            self._leave(f"litellm_settings.{key}", NO_PLACE)
        for key in self.router:
            why = 'for state that replicas share: [state] url = "env:NAME"' if key.startswith("redis") else NO_PLACE
            self._leave(f"router_settings.{key}", why)
        for name in _table(self.source, "environment_variables"):
            self.todo.append(Note(f"environment_variables.{name}", f"export {name}=… before `junctor serve`"))
        for key in self.source:
            if key not in KNOWN:
                self._leave(key, SEE_GUARDS if key == "guardrails" else NO_PLACE)


def _table(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = holder.get(key)
    return found if isinstance(found, Mapping) else {}


def _listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []


def _named(value: Any) -> Any:
    return value.get("model", "") if isinstance(value, Mapping) else value


def _referred(value: str) -> str:
    return f"env:{value.removeprefix(REFERENCE)}" if value.startswith(REFERENCE) else value


def _price(params: dict[str, Any], info: dict[str, Any]) -> dict[str, float]:
    out: dict[str, float] = {}
    for theirs, ours in PER_TOKEN.items():
        stated = (params.pop(theirs, None), info.pop(theirs, None))
        figure = next((value for value in stated if isinstance(value, (int, float))), None)
        if figure is not None:
            out[ours] = round(float(figure) * 1e6, 9)
    return out


def _limits(params: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {ours: info.pop(theirs) for theirs, ours in LIMITS.items() if isinstance(info.get(theirs), int)}
    most = info.pop("max_tokens", None)
    if isinstance(most, int) and "output_tokens" not in out:
        out["output_tokens"] = most
    timeout = params.pop("timeout", None)
    if isinstance(timeout, (int, float)) and timeout > 0:
        out["timeout_s"] = float(timeout)
    return out


def _capabilities(info: dict[str, Any]) -> list[str]:
    mode = MODES.get(str(info.get("mode")))
    return [mode] if mode else []


def _period(duration: Any) -> str:
    found = re.fullmatch(r"(\d+)\s*(s|mo|m|h|d|w)", str(duration or ""))
    if found is None:
        return "total" if duration is None else "month"
    days = int(found[1]) * DAYS[found[2]]
    return next((name for most, name in PERIODS if days <= most), "total")
