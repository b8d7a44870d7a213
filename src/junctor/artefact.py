"""A saved policy: a folder with policy.toml (what it is), state.json and arrays.safetensors (what it learned). Never pickle.

    policy.toml          name, label, version, encoder and its digest, targets, data and split that it saw, hyper-parameters
    state.json           State.config
    arrays.safetensors   State.arrays

Saving writes a sibling folder and renames it, so that a reader never meets half a policy. Whatever cannot be read, does not
belong together or is of a newer format is an ArtefactError that names the file: a policy never loads by halves.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tomli_w
from msgspec import Struct
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

import junctor
from junctor import registry
from junctor.errors import ArtefactError, UserError
from junctor.policy import Policy, PolicyConfig, State
from junctor.types import Catalogue, Target

FORMAT = 1
ABOUT, CONFIG, ARRAYS = "policy.toml", "state.json", "arrays.safetensors"
AGAIN = "fit it again: junctor fit"


class Provenance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a policy was fitted on: the data and its SHA-256, how it was split, the seed, and how many rows were used."""

    source: str = ""
    digest: str = ""
    split: str = ""
    seed: int | None = None
    rows: int | None = None


class _Encoder(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    digest: str = ""


class _About(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """policy.toml."""

    format: int
    junctor: str
    policy: str
    label: str = ""
    version: str = ""
    encoder: _Encoder = _Encoder()
    data: Provenance = Provenance()
    settings: dict[str, Any] = {}
    targets: list[Target] = []


@dataclass(frozen=True, slots=True)
class Artefact:
    """A loaded policy and what belongs to it. `encoder` is empty for a policy that reads no embedding."""

    policy: Policy
    encoder: str
    encoder_digest: str
    targets: Catalogue
    provenance: Provenance


def save_policy(
    policy: Policy,
    folder: Path | str,
    *,
    targets: Catalogue,
    provenance: Provenance,
    encoder: str = "",
    encoder_digest: str = "",
) -> None:
    """Write the folder, in the place of an older artefact if there is one.

    Raises ArtefactError when the folder holds anything else, cannot be written, or the policy could not be read back.
    """
    place = Path(folder).absolute()
    kind = _door(policy.name)
    if kind is not type(policy):
        raise ArtefactError(
            f"is a {type(policy).__name__}, its name stands for {kind.__name__}", field=policy.name, fix="mend `fitted`"
        )
    if "embedding" in policy.needs and not encoder:
        raise ArtefactError("reads an embedding", field="encoder", fix="name the encoder that it was fitted with")
    state = policy.state()
    about = _About(
        format=FORMAT,
        junctor=junctor.__version__,
        policy=policy.name,
        label=policy.label,
        version=policy.version,
        encoder=_Encoder(encoder, encoder_digest),
        data=provenance,
        settings=_tomlable(state.config.get("settings", {})),
        targets=list(targets),
    )
    files = {
        ABOUT: tomli_w.dumps(_tomlable(msgspec.to_builtins(about))).encode(),
        CONFIG: msgspec.json.format(msgspec.json.encode(dict(state.config)), indent=1),
        ARRAYS: write_arrays({name: np.ascontiguousarray(values) for name, values in state.arrays.items()}),
    }
    try:
        _replace(place, files)
    except OSError as error:
        raise ArtefactError(
            f"cannot be written: {error.strerror or error}", field=str(folder), fix="choose another folder"
        ) from error


def _replace(place: Path, files: Mapping[str, bytes]) -> None:
    """Write to a sibling, then swap: only a folder that is an artefact already, or empty, is given up for it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and (not place.is_dir() or {p.name for p in place.iterdir()} - set(files)):
        raise ArtefactError("exists and is not a saved policy", field=str(place), fix="choose another folder")
    fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        fresh.chmod(0o755)
        old = fresh.with_name(fresh.name + "-old")
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(fresh)


def load_policy(folder: Path | str) -> Artefact:
    """Read a folder back, with numpy alone; raises ArtefactError for anything that is missing, damaged or does not fit."""
    place = Path(folder)
    about = _about(place)
    kind = _door(about.policy)
    state = State(_config(place), _arrays(place))
    try:
        policy = kind.from_state(state)
        targets = Catalogue(about.targets)
    except ArtefactError as error:
        raise ArtefactError(f"{error.field}: {error.message}", field=str(place), fix=AGAIN) from error
    except UserError as error:
        raise ArtefactError(str(error), field=str(place), fix=AGAIN) from error
    policy.version, policy.label = about.version, about.label
    if "embedding" in policy.needs and not about.encoder.name:
        raise ArtefactError("names no encoder, but the policy reads an embedding", field=str(place / ABOUT), fix=AGAIN)
    return Artefact(policy, about.encoder.name, about.encoder.digest, targets, about.data)


def _door(name: str) -> type[Policy]:
    """The class that a registered policy's name stands for."""
    kind: type[PolicyConfig] = registry.load("policy", name)
    fitted: type[Policy] | None = getattr(kind, "fitted", None)
    if fitted is None:
        raise ArtefactError(f"{kind.__name__} does not say `fitted`", field=name, fix="set it to the class that `fit` returns")
    return fitted


def _about(place: Path) -> _About:
    path = place / ABOUT
    try:
        plain = tomllib.loads(_bytes(path).decode())
    except ValueError as error:  # not UTF-8, or not TOML
        raise ArtefactError(f"is damaged: {error}", field=str(path), fix=AGAIN) from error
    version = plain.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise ArtefactError(
            f"is of format {version}, this junctor reads up to {FORMAT}", field=str(path), fix="pip install -U junctor"
        )
    try:
        return msgspec.convert(plain, _About)
    except msgspec.ValidationError as error:
        raise ArtefactError(f"is damaged: {error}", field=str(path), fix=AGAIN) from error


def _config(place: Path) -> dict[str, Any]:
    path = place / CONFIG
    try:
        return msgspec.json.decode(_bytes(path), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ArtefactError(f"is damaged: {error}", field=str(path), fix=AGAIN) from error


def _arrays(place: Path) -> dict[str, NDArray[Any]]:
    path = place / ARRAYS
    try:
        arrays: dict[str, NDArray[Any]] = read_arrays(_bytes(path))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"is damaged: {error}", field=str(path), fix=AGAIN) from error
    return arrays


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtefactError("is missing", field=str(path), fix="name a folder that junctor fit wrote") from error
    except OSError as error:
        raise ArtefactError(
            f"cannot be read: {error.strerror}", field=str(path), fix="check the path and its rights"
        ) from error


def _tomlable(value: Any) -> Any:
    """TOML has no null: keys without a value are left out."""
    if isinstance(value, Mapping):
        return {str(key): _tomlable(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_tomlable(item) for item in value if item is not None]
    return value
