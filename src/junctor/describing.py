"""What is known of a registered part: from its registry line, its config class and the class that it fits.

`junctor policies` and the pages under docs/policies are made from this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from junctor import registry
from junctor.about import FAMILIES, About, Claim
from junctor.errors import JunctorError, UnknownName
from junctor.meanings import meanings
from junctor.policy import Estimator, EstimatorConfig, Learner, Policy, PolicyConfig, Replayable
from junctor.registry import Entry

CHOOSING = ("policy", "estimator")
"""The kinds that can choose: an estimator's name means the utility policy over it."""
PLUG_IN, BROKEN = "plug-in", "broken"
"""Status of a part from another package that does not say where it comes from, and of one that cannot be imported."""
ROWS = 8000
"""The grid that is tuned may depend on the number of training rows; it is shown for so many."""


class Setting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hyper-parameter: its default (absent when `required`), what it means, and the values that are tried by default."""

    name: str
    default: Any = None
    required: bool = False
    meaning: str = ""
    tried: tuple[Any, ...] = ()


class Description(Struct, frozen=True, kw_only=True):
    """One part that can choose.

    where      module:Class of its config
    extra      of junctor's extras, the one that a fit needs; "" when none
    status     as in About; "plug-in" for parts of other packages that carry no About; "broken" when `why` it cannot be imported
    needs      what deciding reads beside the text: "embedding", "labels", "history"; None: it depends on the settings
    learns     takes feedback while it serves
    onboards   can learn a new target from a few rows, without being fitted anew
    replays    its plans look at answers: the bench replays their calls
    """

    kind: str
    name: str
    summary: str
    extra: str
    family: str
    status: str
    title: str
    source: str
    link: str
    needs: tuple[str, ...] | None
    learns: bool
    onboards: bool
    replays: bool
    where: str
    formula: str = ""
    complexity: str = ""
    adapted: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    settings: tuple[Setting, ...] = ()
    why: str = ""


def described(kinds: Sequence[str] = CHOOSING, family: str = "") -> list[Description]:
    """All parts of these kinds, ours first, in the order of the registry; only those of a family, when one is named.

    A plug-in that cannot be imported is described as broken and hides nobody. Raises UnknownName for no such family.
    """
    if family and family not in FAMILIES:
        raise UnknownName(f"there is no family {family!r}", field="family", fix=f"families: {'; '.join(FAMILIES)}")
    found = [describe(entry) for kind in kinds for entry in registry.entries(kind)]
    return [one for one in found if not family or one.family == family]


def description(name: str) -> Description:
    """The part of this name that can choose; raises UnknownName with the nearest names of both kinds."""
    for kind in CHOOSING:
        for entry in registry.entries(kind):
            if entry.name == name:
                return describe(entry)
    known = sorted({entry.name for kind in CHOOSING for entry in registry.entries(kind)})
    raise UnknownName(f"no policy or estimator is called {name!r}", field="name", fix=registry.nearest(name, known))


def describe(entry: Entry) -> Description:
    """Import one part and say what is known of it."""
    try:
        config = entry.load()
        return _described(entry, config)
    except Exception as error:
        if entry in registry.BUILTIN and not isinstance(error, JunctorError):
            raise
        return _blank(entry, BROKEN, why=str(error) if isinstance(error, JunctorError) else f"{type(error).__name__}: {error}")


def _described(entry: Entry, config: Any) -> Description:
    fitted = getattr(config, "fitted", object)
    about = getattr(config, "about", None)
    facts = {"needs": _needs(config), **_abilities(fitted), "settings": tuple(_settings(config))}
    if not isinstance(about, About):
        return _blank(entry, PLUG_IN, **facts)
    said = {name: getattr(about, name) for name in About.__struct_fields__}
    return _blank(entry, **{**said, **facts})


def _blank(entry: Entry, status: str = "", **known: Any) -> Description:
    empty = {"family": "", "title": entry.name, "source": "", "link": "", "needs": None}
    flags = {"learns": False, "onboards": False, "replays": False}
    line = {"kind": entry.kind, "name": entry.name, "summary": entry.summary, "extra": entry.extra, "where": entry.where}
    return Description(**{**line, **empty, **flags, "status": status, **known})


def _abilities(fitted: Any) -> dict[str, bool]:
    """What the fitted class can do beside choosing."""
    onboards = issubclass(fitted, Estimator) or (issubclass(fitted, Policy) and fitted.onboard is not Policy.onboard)
    return {"learns": issubclass(fitted, Learner), "replays": issubclass(fitted, Replayable), "onboards": onboards}


def _needs(config: Any) -> tuple[str, ...] | None:
    """As the class says, or a default instance; None where neither can be had."""
    said = getattr(config, "needs", None)
    if said is PolicyConfig.needs or said is EstimatorConfig.needs:
        return ()
    if not isinstance(said, frozenset):
        made = _default(config)
        said = None if made is None else made.needs
    return None if said is None else tuple(sorted(said))


def _default(config: Any) -> Any:
    """The config with its default settings; None for one that cannot do without a setting."""
    try:
        return config()
    except (JunctorError, TypeError):
        return None


def _settings(config: Any) -> Iterator[Setting]:
    fields = [f for f in dataclasses.fields(config) if f.init]
    said = meanings(config, [f.name for f in fields])
    tried = _tried(_default(config))
    for field in fields:
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        required = made is dataclasses.MISSING
        yield Setting(
            name=field.name,
            default=None if required else _plain(made),
            required=required,
            meaning=said.get(field.name, ""),
            tried=tried.get(field.name, ()),
        )


def _tried(config: Any) -> Mapping[str, tuple[Any, ...]]:
    """Field -> the values that tuning tries, of the fields of which it tries more than one."""
    if config is None:
        return {}
    grid = list(config.candidates(ROWS))
    values = {f.name: _distinct([getattr(one, f.name) for one in grid]) for f in dataclasses.fields(config)}
    return {name: found for name, found in values.items() if len(found) > 1}


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    """In order of appearance; configs within a config have a grid, and a page, of their own."""
    found: list[Any] = []
    for value in values:
        if value not in found and not dataclasses.is_dataclass(value):
            found.append(value)
    return tuple(map(_plain, found))


def _plain(value: Any) -> Any:
    """The value as JSON can say it; what it cannot is said as text."""
    if dataclasses.is_dataclass(value) or (isinstance(value, float) and value in (float("inf"), float("-inf"))):
        return str(value)
    return msgspec.to_builtins(value, str_keys=True, enc_hook=str)


def shown(value: Any) -> str:
    """A setting's value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, str) and value and value.isprintable():
        return value
    return msgspec.json.encode(value).decode()
