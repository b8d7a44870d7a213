"""Other gateways, started from their own packages in front of the same mock upstream; one that is not there is left out.

    python -m venv PEERS && PEERS/bin/pip install tensorzero==2026.6.0 nemo-switchyard==0.3.0 "litellm[proxy]==1.106.2"
    npm install --prefix PEERS @portkey-ai/gateway@1.15.2 @hono/node-server@1.14.1
    python benchmarks/gateway.py --peers tensorzero,nemo-switchyard,portkey,litellm --peers-home PEERS

Each runs as its own documentation says for one process, logging and storage off where that is a setting, no feature beyond
passing the call on.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

STARTS_WITHIN_S = 60.0
TENSORZERO = """
import sys, time, tensorzero
running = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print("at", running.base_url, flush=True)
time.sleep(7200)
"""
SWITCHYARD = """
import sys, time
from switchyard_rust.server import Server
running = Server(sys.argv[1], int(sys.argv[2]))
print("at", running.base_url, flush=True)
time.sleep(7200)
"""


@dataclass
class Peer:
    """A running gateway: where its chat completions are, what it calls the model, what else it wants to be sent."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    model: str = "mock"
    headers: Mapping[str, str] = field(default_factory=dict)


class Absent(Exception):
    """A peer's package is not there, or it does not start; the message says which."""


def start(name: str, home: Path, folder: Path, mock: str, port: int) -> Peer:
    """Start a peer on a port of 127.0.0.1; raises Absent. `home` is where the packages are, `folder` for its configuration."""
    if name not in STARTERS:
        raise Absent(f"{name}: not a peer known here (known: {', '.join(STARTERS)})")
    return STARTERS[name](home, folder, mock, port)


def _launch(command: list[str], folder: Path, name: str, more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    if not Path(command[0]).exists() and command[0] != "node":
        raise Absent(f"{name}: {command[0]} is not there")
    env = {**os.environ, "BENCH_KEY": "bench", "RUST_LOG": "error", **(more or {})}
    env.pop("PYTHONPATH", None)
    log = (folder / f"{name}.log").open("wb")
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=env, cwd=folder)
    except FileNotFoundError as error:
        raise Absent(f"{name}: {error.filename} is not there") from error


def _said(process: subprocess.Popen[bytes], pattern: bytes, name: str) -> str:
    """Wait for a line of standard output; its first group."""
    assert process.stdout is not None
    end = time.monotonic() + STARTS_WITHIN_S
    seen = b""
    while time.monotonic() < end and process.poll() is None:
        if select.select([process.stdout], [], [], 0.2)[0]:
            seen += os.read(process.stdout.fileno(), 65536)
            if found := re.search(pattern, seen):
                return found[1].decode()
    process.kill()
    raise Absent(f"{name}: did not start")


def tensorzero(home: Path, folder: Path, mock: str, port: int) -> Peer:
    """TensorZero, its gateway inside a Python process that does nothing else."""
    del port
    config = folder / "tensorzero.toml"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n[models.mock]\nrouting = ['p']\n[models.mock.providers.p]\n"
        f"type = 'openai'\nmodel_name = 'mock'\napi_base = '{mock}/v1/'\napi_key_location = 'env::BENCH_KEY'\n"
    )
    process = _launch([str(home / "bin/python"), "-c", TENSORZERO, str(config)], folder, "tensorzero")
    url = _said(process, rb"at (http://\S+)\n", "tensorzero")
    return Peer("tensorzero", process, url + "/chat/completions", model="tensorzero::model_name::mock")


def switchyard(home: Path, folder: Path, mock: str, port: int) -> Peer:
    """NVIDIA Switchyard, a `random` route over two targets."""
    config = folder / "routes.toml"
    config.write_text(
        f"schema_version = 1\n[llm_clients.m]\nformat = 'openai_chat'\nbase_url = '{mock}/v1'\napi_key_env = 'BENCH_KEY'\n"
        "[targets.a]\nid = 'mock-a'\nllm_client = 'm'\n[targets.b]\nid = 'mock-b'\nllm_client = 'm'\n"
        "[routes.mock]\nid = 'mock'\ntype = 'random'\ntargets = ['a', 'b']\n"
    )
    process = _launch([str(home / "bin/python"), "-c", SWITCHYARD, str(config), str(port)], folder, "nemo-switchyard")
    url = _said(process, rb"at (http://\S+)\n", "nemo-switchyard")
    return Peer("nemo-switchyard", process, url + "/v1/chat/completions")


def litellm(home: Path, folder: Path, mock: str, port: int) -> Peer:
    """LiteLLM's proxy, one worker."""
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: mock\n    litellm_params:\n      model: openai/mock\n"
        f"      api_base: {mock}/v1\n      api_key: bench\n"
    )
    command = [str(home / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    more = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOG": "ERROR"}
    return Peer("litellm", _launch([*command, "--num_workers", "1"], folder, "litellm", more), _chat(port))


def portkey(home: Path, folder: Path, mock: str, port: int) -> Peer:
    """Portkey's gateway on node."""
    script = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not script.exists():
        raise Absent(f"portkey: {script} is not there")
    process = _launch(
        ["node", str(script), "--headless", f"--port={port}"], folder, "portkey", {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    )
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{mock}/v1"}
    return Peer("portkey", process, _chat(port), headers=headers)


def _chat(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1/chat/completions"


STARTERS: Mapping[str, Callable[[Path, Path, str, int], Peer]] = {
    "tensorzero": tensorzero,
    "nemo-switchyard": switchyard,
    "portkey": portkey,
    "litellm": litellm,
}
