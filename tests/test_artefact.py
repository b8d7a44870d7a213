"""Saved policies: what is written, what comes back, what is refused, and that loading needs numpy alone."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from junctor.artefact import ABOUT, ARRAYS, CONFIG, Provenance, load_policy, save_policy
from junctor.errors import ArtefactError, UnknownName
from junctor.fitting import fit_policy, policy_config
from junctor.policies.fixed import Fixed
from junctor.testing import planted
from junctor.testing.planted import requests
from junctor.types import Catalogue, Limits, Price, Target

FROM = Provenance(source="planted", digest="d1", split="60/20/20", seed=3, rows=100)


@pytest.fixture(scope="module")
def fitted():
    table, features = planted(150)
    made = fit_policy(
        policy_config("knn", {"k": 9, "cost_weight": 0.2}), table, features, range(100), [], np.random.default_rng(0)
    )
    return made.policy, table, features


@pytest.fixture
def folder(fitted, tmp_path):
    policy, table, _ = fitted
    save_policy(policy, tmp_path / "p", targets=table.targets, provenance=FROM, encoder="static", encoder_digest="e1")
    return tmp_path / "p"


def test_everything_comes_back(fitted, folder):
    policy, table, features = fitted
    found = load_policy(folder)
    assert (found.encoder, found.encoder_digest, found.provenance) == ("static", "e1", FROM)
    assert list(found.targets) == list(table.targets), "with description, price, limits and all"
    assert (found.policy.title, found.policy.version, found.policy.needs) == ("knn", policy.version, {"embedding"})
    for request in requests(table, features, range(20)):
        pair = [one.decide(request, table.targets, np.random.default_rng(0)) for one in (policy, found.policy)]
        assert pair[0] == pair[1]


def test_a_target_keeps_all_that_is_known_of_it(tmp_path):
    target = Target(
        id="m@high",
        kind="agent",
        description="an agent",
        provider="p",
        model="m",
        settings={"reasoning": {"effort": "high"}, "tags": ["x"]},
        price=Price(input_usd_per_mtok=1.5, usd_per_call=0.1),
        limits=Limits(context_tokens=1000, timeout_s=2.5),
        capabilities=frozenset({"tools", "vision"}),
    )
    save_policy(Fixed(["m@high"], {}, 0), tmp_path / "p", targets=Catalogue([target]), provenance=Provenance())
    assert list(load_policy(tmp_path / "p").targets) == [target]


def test_the_description_is_readable(folder):
    about = tomllib.loads((folder / ABOUT).read_text())
    assert about["format"] == 1
    assert (about["policy"], about["label"]) == ("utility", "knn")
    assert about["data"] == {"source": "planted", "digest": "d1", "split": "60/20/20", "seed": 3, "rows": 100}
    assert about["settings"]["estimator_settings"]["k"] == 9
    assert {path.name for path in folder.iterdir()} == {ABOUT, CONFIG, ARRAYS}
    assert not any(b"pickle" in path.read_bytes() for path in folder.iterdir())


def test_saving_again_replaces_the_old_one_and_leaves_nothing_behind(fitted, folder):
    _, table, features = fitted
    other = policy_config("mean").fit(table, features, np.random.default_rng(0))
    save_policy(other, folder, targets=table.targets, provenance=Provenance())
    assert load_policy(folder).policy.title == "mean"
    assert load_policy(folder).encoder == ""
    assert [path.name for path in folder.parent.iterdir()] == ["p"]


def test_a_folder_of_other_things_is_never_replaced(fitted, tmp_path):
    policy, table, _ = fitted
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="exists and is not a saved policy"):
        save_policy(policy, tmp_path / "thesis", targets=table.targets, provenance=FROM, encoder="static")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtefactError, match="exists and is not a saved policy"):
        save_policy(policy, tmp_path / "file", targets=table.targets, provenance=FROM, encoder="static")
    with pytest.raises(ArtefactError, match="cannot be written"):
        save_policy(policy, tmp_path / "file" / "p", targets=table.targets, provenance=FROM, encoder="static")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_failure_while_writing_keeps_the_old_policy(fitted, folder, monkeypatch):
    policy, table, _ = fitted
    from pathlib import Path

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtefactError, match="No space left on device"):
        save_policy(policy, folder, targets=table.targets, provenance=FROM, encoder="static")
    monkeypatch.undo()
    assert load_policy(folder).policy.version == policy.version
    assert [path.name for path in folder.parent.iterdir()] == ["p"]


def test_what_could_not_be_loaded_is_not_saved(fitted, tmp_path):
    policy, table, _ = fitted

    class Other(Fixed):
        pass

    with pytest.raises(ArtefactError, match="is a Other, its name stands for Fixed"):
        save_policy(Other(["linguist"], {}, 0), tmp_path / "p", targets=table.targets, provenance=FROM)
    with pytest.raises(ArtefactError, match="encoder: reads an embedding"):
        save_policy(policy, tmp_path / "p", targets=table.targets, provenance=FROM)
    assert not (tmp_path / "p").exists()


def rewrite(path, old: bytes, new: bytes):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def edit_arrays(folder, **changes):
    arrays = {**load_file(folder / ARRAYS)}
    for name, change in changes.items():
        key = name.replace("__", "/")
        arrays[key] = np.ascontiguousarray(change(arrays[key]))
    save_file(arrays, folder / ARRAYS)


def with_nan(values):
    values = values.copy()
    values[0] = np.nan
    return values


DAMAGE = [
    ("no description", lambda f: (f / ABOUT).unlink(), r"policy\.toml: is missing \(name a folder that junctor fit wrote"),
    ("no state", lambda f: (f / CONFIG).unlink(), r"state\.json: is missing"),
    ("no arrays", lambda f: (f / ARRAYS).unlink(), r"arrays\.safetensors: is missing"),
    ("a folder for a file", lambda f: ((f / CONFIG).unlink(), (f / CONFIG).mkdir()), r"state\.json: cannot be read"),
    ("broken TOML", lambda f: (f / ABOUT).write_text("= ="), r"policy\.toml: is damaged"),
    ("no text", lambda f: (f / ABOUT).write_bytes(b"\xff\xfe"), r"policy\.toml: is damaged"),
    ("a key too many", lambda f: rewrite(f / ABOUT, b"format = 1", b"format = 1\nsurprise = 2"), "surprise"),
    ("no format", lambda f: rewrite(f / ABOUT, b"format = 1", b""), "format"),
    (
        "a newer format",
        lambda f: rewrite(f / ABOUT, b"format = 1", b"format = 2"),
        "is of format 2, this junctor reads up to 1",
    ),
    ("no encoder", lambda f: rewrite(f / ABOUT, b'name = "static"', b'name = ""'), "names no encoder"),
    ("a target twice", lambda f: rewrite(f / ABOUT, b'"calculator"', b'"linguist"'), "a target id is used twice"),
    ("broken JSON", lambda f: (f / CONFIG).write_text("{"), r"state\.json: is damaged"),
    ("JSON of another kind", lambda f: (f / CONFIG).write_text("[]"), r"state\.json: is damaged"),
    (
        "half of the arrays",
        lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes()[:-100]),
        r"arrays\.safetensors: is damaged",
    ),
    ("no safetensors", lambda f: (f / ARRAYS).write_bytes(b"hello"), r"arrays\.safetensors: is damaged"),
    ("another estimator", lambda f: rewrite(f / CONFIG, b'"name": "knn"', b'"name": "mean"'), "the settings say 'knn'"),
    (
        "a setting of a newer version",
        lambda f: rewrite(f / CONFIG, b'"shrinkage"', b'"elasticity"'),
        "elasticity: unknown setting",
    ),
    ("vectors of fewer rows", lambda f: edit_arrays(f, estimator__vectors=lambda v: v[:-1]), "values: has shape"),
    (
        "vectors of another type",
        lambda f: edit_arrays(f, estimator__vectors=lambda v: v.astype("f8")),
        "vectors: holds float64",
    ),
    ("NaN among the vectors", lambda f: edit_arrays(f, estimator__vectors=with_nan), "vectors: holds NaN"),
    ("scales too few", lambda f: edit_arrays(f, scales=lambda v: v[:2]), "scales: has shape"),
]


@pytest.mark.parametrize(("damage", "said"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_policy_that_cannot_load_fails_loudly(folder, damage, said):
    damage(folder)
    with pytest.raises(ArtefactError, match=said) as failed:
        load_policy(folder)
    assert str(folder) in str(failed.value), "the error names the place"


def test_gaps_among_outcomes_are_allowed_where_nan_means_not_recorded(folder):
    edit_arrays(folder, estimator__values=with_nan)
    assert load_policy(folder).policy.title == "knn"


def test_an_unknown_policy_is_named(folder):
    rewrite(folder / ABOUT, b'policy = "utility"', b'policy = "utilitarian"')
    with pytest.raises(UnknownName, match="did you mean 'utility'"):
        load_policy(folder)


LEAN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sklearn", "scipy", "polars", "torch", "matplotlib", "onnxruntime", "tokenizers"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
from junctor import Features, Request
from junctor.artefact import load_policy
for folder in sys.argv[1:]:
    found = load_policy(folder)
    asked = Request(id="r", text="x", labels={"topic": "arithmetic"}, features=Features(["x"], np.eye(1, 32, dtype=np.float32)))
    print(found.policy.decide(asked, found.targets, np.random.default_rng(0)).target)
"""


def test_loading_and_deciding_need_numpy_alone(tmp_path):
    table, features = planted(120)
    names = ["mean", "label-table", "kmeans-table", "knn", "linear", "random", "cheapest", "best-single"]
    for name in names:
        policy = policy_config(name).fit(table, features, np.random.default_rng(0))
        encoder = "static" if "embedding" in policy.needs else ""
        save_policy(policy, tmp_path / name, targets=table.targets, provenance=FROM, encoder=encoder)
    command = [sys.executable, "-c", LEAN, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(names)
    assert set(done.stdout.split()) <= set(table.targets.ids)
    blocked = subprocess.run(
        [sys.executable, "-c", LEAN.replace("import numpy", "import sklearn, numpy")], capture_output=True, check=False
    )
    assert blocked.returncode != 0, "the block does block"
