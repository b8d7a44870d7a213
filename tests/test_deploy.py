"""What deploy/ says, held against the code: ports, paths, flags, secrets, users. Nothing is built or run here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import yaml

from junctor.cli import app
from junctor.config import Config, is_reference, load_config
from junctor.engine import Engine
from junctor.gateway.app import Gateway
from junctor.gateway.serving import serve_async
from junctor.tenancy.building import check_open
from junctor.types import Catalogue

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UID = 10001


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(DEPLOY / "junctor.toml")


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    found = {}
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text()):
            found[one["kind"]] = one
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def dockerfile() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def references(config: Config) -> set[str]:
    found = [config.state.url, config.gateway.admin_key]
    found += [str(value) for provider in config.providers.values() for value in provider.settings.values()]
    return {value.removeprefix("env:") for value in found if is_reference(value)}


def commands() -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return {name: {opt for param in command.params for opt in param.opts} for name, command in group.commands.items()}


def check_command(words: list[str]) -> None:
    """Whether `junctor` knows the command and its flags."""
    known = commands()
    assert words[0] in known
    assert {word for word in words[1:] if word.startswith("-")} <= known[words[0]]


async def served(method: str, path: str) -> bool:
    engine = Engine(Catalogue([]), {})
    try:
        return Gateway(engine).pages.find(method, path).open
    finally:
        await engine.aclose()


def test_the_configuration_is_safe_to_expose(config: Config) -> None:
    check_open(config, config.gateway.host)
    assert config.gateway.keys == "required"
    assert is_reference(config.state.url)
    assert all(target.price is not None for target in config.targets.values())


def test_the_image_runs_as_nobody_and_is_asked_whether_it_is_well(config: Config) -> None:
    lines = dockerfile()
    last = dict(lines)
    assert last["USER"] == f"{UID}:{UID}"
    assert last["EXPOSE"] == str(config.gateway.port)
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert f"http://127.0.0.1:{config.gateway.port}/healthz" in last["HEALTHCHECK"]
    assert yaml.safe_load(last["ENTRYPOINT"]) == ["junctor"]
    check_command(yaml.safe_load(last["CMD"]))
    stages = [rest for word, rest in lines if word == "FROM"]
    assert all(re.match(r"python:3\.\d+-slim", stage) for stage in stages)
    assert len(stages) == 2
    final = [rest for word, rest in lines[[word for word, _ in lines].index("FROM", 1) :] if word == "RUN"]
    assert any("pip uninstall" in rest for rest in final)
    assert not any("apt-get" in rest or "pip install" in rest for rest in final)


def test_the_image_holds_what_it_copies_and_the_extras_exist() -> None:
    extras = re.search(r'install --no-cache-dir "\.\[(.*?)\]"', (DEPLOY / "Dockerfile").read_text())
    declared = (ROOT / "pyproject.toml").read_text()
    assert extras is not None
    assert all(re.search(rf"^{extra} = ", declared, re.MULTILINE) for extra in extras[1].split(","))
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in dockerfile():
        if word == "COPY" and "--from" not in rest:
            for source in shlex.split(rest)[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source.removeprefix('./')}" in ignored


async def test_probes_ask_a_page_that_needs_no_key(manifests: dict[str, Any], config: Config) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": config.gateway.port}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert await served("GET", asked["path"])
    check_command(container["args"])
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] in ports


def test_pods_have_time_to_drain(manifests: dict[str, Any], compose: dict[str, Any]) -> None:
    defaults = serve_async.__kwdefaults__
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    waits = re.search(r"sleep\((\d+)\)", str(pod["containers"][0]["lifecycle"]["preStop"]))
    assert waits is not None
    assert pod["terminationGracePeriodSeconds"] > int(waits[1]) + defaults["shutdown_s"]
    assert int(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s")) > defaults["shutdown_s"]


def test_pods_may_do_little(manifests: dict[str, Any]) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, UID)
    own = pod["containers"][0]["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}


def test_every_secret_of_the_configuration_arrives(config: Config, manifests: dict[str, Any], compose: dict[str, Any]) -> None:
    wanted = references(config)
    assert wanted == {"OPENAI_API_KEY", "JUNCTOR_ADMIN_KEY", "JUNCTOR_STATE"}
    container = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    given = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"]}
    assert set(given) == wanted
    assert {ref["key"] for ref in given.values()} == set(manifests["Secret"]["stringData"])
    assert not any(manifests["Secret"]["stringData"].values())
    assert wanted <= set(compose["services"]["gateway"]["environment"])


def test_what_is_written_lies_on_a_volume(config: Config, manifests: dict[str, Any], compose: dict[str, Any]) -> None:
    mounts = {m["mountPath"] for m in manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    volumes = {entry.split(":")[1] for entry in compose["services"]["gateway"]["volumes"]}
    for path in (config.journal.path, config.responses.path):
        assert str(Path(path).parent) in mounts & volumes
    assert compose["services"]["gateway"]["read_only"] is True


def test_the_config_map_is_the_file(manifests: dict[str, Any]) -> None:
    assert manifests["ConfigMap"]["data"]["junctor.toml"] == (DEPLOY / "junctor.toml").read_text()


def test_all_select_the_same_pods(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert scaled["minReplicas"] > manifests["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_compose_listens_on_this_machine_only(compose: dict[str, Any], config: Config) -> None:
    gateway = compose["services"]["gateway"]
    assert gateway["ports"] == [f"127.0.0.1:{config.gateway.port}:{config.gateway.port}"]
    check_command(gateway["command"])
    assert (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert set(gateway["depends_on"]) <= set(compose["services"])
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert set(compose["volumes"]) <= used
