"""From a configuration to an engine: everything that is named is made, and what cannot be made says where and why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from junctor.artefact import Provenance, save_policy
from junctor.build import build_engine
from junctor.config import parse_config
from junctor.encoders import load_encoder
from junctor.errors import ArtefactError, ConfigError
from junctor.fitting import fit_policy, policy_config
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue, Message, Request

TREE = {
    "providers": {"embedded": {}},
    "targets": {"arithmetic": {"provider": "embedded"}, "text": {"provider": "embedded"}},
    "policies": {"first": {"use": "fixed", "settings": {"target": "text"}}},
    "aliases": {"auto": "first"},
}


def ask(text: str) -> Request:
    return Request(id="r1", text=text, messages=(Message("user", text),), params={"model": "auto"})


def save_knn(folder: Path, encoder: str = "lexical", digest: str | None = None) -> None:
    """A kNN policy that has seen sums go to `arithmetic` and words to `text`."""
    texts = [f"what is {i} + {i}" for i in range(20)] + [f"reverse the word number{i}" for i in range(20)]
    quality = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    table = OutcomeTable(texts=texts, targets=Catalogue.of(["arithmetic", "text"]), quality=quality)
    made = load_encoder(encoder)
    features = table.features(made.encode(texts))
    rows = np.arange(40)
    fit = fit_policy(policy_config("knn"), table, features, rows[::2], rows[1::2], np.random.default_rng(0))
    save_policy(
        fit.policy,
        folder,
        targets=table.targets,
        provenance=Provenance(source="made here"),
        encoder=encoder,
        encoder_digest=made.digest if digest is None else digest,
    )


def test_a_fixed_policy_answers_and_the_journal_lies_beside_the_file(tmp_path: Path) -> None:
    engine = build_engine(parse_config(TREE | {"journal": {"path": "log/j"}}, tmp_path))
    answer = asyncio.run(engine.complete(ask("reverse the word abc"), "auto"))
    assert answer.target.id == "text"
    assert b"cba" in answer.reply.body
    asyncio.run(engine.aclose())
    assert (tmp_path / "log" / "j").stat().st_size > 0


def test_a_fitted_policy_is_loaded_with_its_encoder(tmp_path: Path) -> None:
    save_knn(tmp_path / "knn")
    tree = TREE | {"policies": {"knn": {"artefact": "knn"}}, "aliases": {"auto": "knn"}}
    engine = build_engine(parse_config(tree, tmp_path), dry_run=True)
    assert engine.route(ask("what is 3 + 9"), "auto").decision.target == "arithmetic"
    assert engine.route(ask("reverse the word tree"), "auto").decision.target == "text"


def test_an_alias_keeps_to_its_own_targets(tmp_path: Path) -> None:
    save_knn(tmp_path / "knn")
    aliases = {"auto": {"policy": "knn", "targets": ["text"]}}
    tree = TREE | {"policies": {"knn": {"artefact": "knn"}}, "aliases": aliases}
    engine = build_engine(parse_config(tree, tmp_path), dry_run=True)
    assert engine.route(ask("what is 3 + 9"), "auto").decision.target == "text"


def test_a_replay_table_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("query,score:a\nhello,1\n")
    tree = {
        "journal": {"path": ""},
        "providers": {"replay": {"table": "t.csv"}},
        "targets": {"a": {"provider": "replay"}},
    }
    engine = build_engine(parse_config(tree, tmp_path))
    answer = asyncio.run(engine.complete(ask("hello"), "a"))
    assert answer.outcome.quality == 1.0


def test_a_policy_of_an_older_encoder_is_refused(tmp_path: Path) -> None:
    save_knn(tmp_path / "knn", digest="0123")
    tree = TREE | {"policies": {"knn": {"artefact": "knn"}}, "aliases": {"auto": "knn"}}
    with pytest.raises(ConfigError, match="fitted with another version of the encoder 'lexical'"):
        build_engine(parse_config(tree, tmp_path), dry_run=True)


def test_a_policy_that_cannot_load_fails_loudly(tmp_path: Path) -> None:
    tree = TREE | {"policies": {"knn": {"artefact": "gone"}}, "aliases": {"auto": "knn"}}
    with pytest.raises(ArtefactError, match="gone"):
        build_engine(parse_config(tree, tmp_path), dry_run=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": {"first": {"use": "fixt"}}}, r"policies\.first.*'fixt'"),
        ({"policies": {"first": {"use": "knn"}}}, r"policies\.first\.use: learns from outcomes"),
        ({"policies": {"first": {"use": "fixed", "settings": {"target": "nobody"}}}}, r"policies\.first.*nobody"),
        ({"policies": {"first": {"use": "fixed", "settings": {"tarket": "text"}}}}, r"policies\.first.*tarket"),
        ({"providers": {"embedded": {"nope": 1}}}, r"providers\.embedded.*nope"),
        ({"providers": {"embedded": {}, "up": {"kind": "openai_compatible"}}}, r"providers\.up.*base_url"),
        (
            {
                "providers": {
                    "embedded": {},
                    "up": {"kind": "openai_compatible", "base_url": "http://x/v1", "api_key": "env:NOT_SET_1"},
                }
            },
            r"providers\.up\.api_key: refers to the environment variable NOT_SET_1",
        ),
    ],
)
def test_what_cannot_be_made_names_its_path(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_engine(parse_config(TREE | {"journal": {"path": ""}} | change, tmp_path))


def test_a_dry_run_needs_no_secrets(tmp_path: Path) -> None:
    up = {
        "kind": "openai_compatible",
        "base_url": "http://127.0.0.1:9/v1",
        "api_key": "env:NOT_SET_1",
        "headers": {"x": "env:NO"},
    }
    tree = TREE | {"providers": {"embedded": {}, "up": up}}
    engine = build_engine(parse_config(tree, tmp_path), dry_run=True)
    assert engine.route(ask("hello"), "auto").decision.target == "text"
    with pytest.raises(ConfigError, match="NOT_SET_1"):
        build_engine(parse_config(tree, tmp_path))


def test_no_shared_target_between_policy_and_file_is_an_error(tmp_path: Path) -> None:
    save_knn(tmp_path / "knn")
    tree = {
        "providers": {"embedded": {}},
        "targets": {"units": {"provider": "embedded"}},
        "policies": {"knn": {"artefact": "knn"}},
        "aliases": {"auto": "knn"},
    }
    with pytest.raises(ConfigError, match=r"aliases\.auto: none of its targets is known to its policy"):
        build_engine(parse_config(tree, tmp_path), dry_run=True)
