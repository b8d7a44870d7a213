"""Requests per second of the gateway against a bare pass-through, side by side in one run. Loopback only, about two minutes.

    python benchmarks/gateway.py --seconds 5 --json -

Three processes serve: a mock upstream, the bare pass-through (uvicorn + uvloop + httptools + aiohttp, one worker, no logic) in
front of it, and `junctor serve` with one worker, its journal on. junctor answers two ways:

    junctor_*   the alias `auto`: a kNN utility policy fitted on outcomes recorded here picks a local solver for each request
    proxy_*     a direct target in front of the same mock upstream, as the bare pass-through is

Rounds alternate the order and medians are reported, so that a busy machine hurts everybody alike: compare ratios.
Added latency is at one connection: through the gateway minus straight to the mock. `*_cpu_us` is processor time per request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

import load
from load import Load

HERE = Path(__file__).parent
CHAT = "/v1/chat/completions"
WIDE = 16
TURNS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {
        "role": "user",
        "content": "What is the capital of France? Answer in two sentences, and mention the river that runs through it.",
    },
]
TASKS = 600
COST_WEIGHT = 0.1
TICKS = os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """Progress, beside the JSON."""
    print(text, file=sys.stderr, flush=True)


def body(model: str, *, stream: bool = False) -> bytes:
    """A typical short call."""
    call: dict[str, Any] = {"model": model, "messages": TURNS, "temperature": 0.2, "max_tokens": 64}
    return json.dumps(call | ({"stream": True} if stream else {}), separators=(",", ":")).encode()


def prepare(folder: Path, mock: str, encoder: str) -> None:
    """Record outcomes of the embedded pool, fit the policy on them, write the configuration."""
    from junctor.artefact import Provenance, save_policy
    from junctor.encoders import load_encoder
    from junctor.fitting import fit_policy, policy_config
    from junctor.providers.embedded import EMBEDDED, EmbeddedProvider
    from junctor.providers.embedded.workload import make_tasks
    from junctor.recording import record_outcomes

    say(f"recording {TASKS} tasks on {len(EMBEDDED)} local targets")
    table = record_outcomes(make_tasks(TASKS, np.random.default_rng(0)), EMBEDDED, EmbeddedProvider())
    chosen = load_encoder(encoder)
    config = policy_config("linear", {"cost_weight": COST_WEIGHT})
    rows = np.random.default_rng(0).permutation(TASKS)
    features = table.features(chosen.encode(table.texts))
    made = fit_policy(config, table, features, rows[120:], rows[:120], np.random.default_rng(0))
    save_policy(
        made.policy,
        folder / "linear",
        targets=table.targets,
        provenance=Provenance(source="the embedded pool", digest=table.digest(), seed=0, rows=TASKS),
        encoder=encoder,
        encoder_digest=chosen.digest,
    )
    targets = {target.id: _section(target) for target in EMBEDDED}
    tree = {
        "journal": {"path": "junctor.journal"},
        "providers": {"mock": {"kind": "openai_compatible", "base_url": f"{mock}/v1"}},
        "targets": targets | {"mock": {"provider": "mock", "price": {"input_usd_per_mtok": 0.5}}},
        "policies": {"linear": {"artefact": "linear"}},
        "aliases": {"auto": {"policy": "linear", "targets": list(targets)}},
    }
    (folder / "junctor.toml").write_text(tomli_w.dumps(tree))


def _section(target: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(target)
    limits = {name: value for name, value in plain["limits"].items() if value is not None}
    price = {name: value for name, value in plain["price"].items() if value is not None}
    section = {"provider": "mock", "model": plain["model"], "settings": plain["settings"], "price": price}
    return {name: value for name, value in (section | {"limits": limits}).items() if value}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Server:
    """A process that serves on a port of 127.0.0.1."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it accepts connections."""
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with status {self.process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not listen on {self.port}")

    def cpu_s(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mb(self) -> float:
        """Resident memory."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else float("nan")


@contextlib.contextmanager
def served(name: str, command: Callable[[int], Sequence[str]]) -> Iterator[Server]:
    """Start a server on a free port, stop it at the end."""
    port = free_port()
    server = Server(name, port, subprocess.Popen(command(port), stdout=subprocess.DEVNULL))
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(15)
        if server.process.poll() is None:
            server.process.kill()


@dataclass
class Subject:
    """Something to load, and what its runs gave."""

    name: str
    server: Server
    body: bytes
    connections: int
    seconds: float
    runs: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def run(self) -> None:
        """One round."""
        before = self.server.cpu_s()
        found = load.measure(self.server.url + CHAT, self.body, self.connections, self.seconds)
        if found.failed or not found.requests:
            raise SystemExit(f"{self.name}: {found.failed} of {found.requests} requests failed")
        self.runs.append(found)
        self.cpu_us.append((self.server.cpu_s() - before) / found.requests * 1e6)
        say(f"{self.name:18s} {found.rps:9.0f} req/s   p50 {found.p50_ms:.3f} ms   cpu {self.cpu_us[-1]:.0f} µs/request")

    def rps(self) -> float:
        """Median."""
        return statistics.median(run.rps for run in self.runs)

    def cpu(self) -> float:
        """Median processor microseconds per request."""
        return statistics.median(self.cpu_us)


def ratio(one: Subject, other: Subject) -> float:
    """Median over rounds of one's rate against the other's in the same round."""
    return round(statistics.median(a.rps / b.rps for a, b in zip(one.runs, other.runs, strict=True)), 4)


def added(one: Subject, direct: Subject, percentile: str) -> float:
    """Median over rounds of one's latency minus the direct one's in the same round, in ms."""
    gaps: list[float] = [getattr(a, percentile) - getattr(b, percentile) for a, b in zip(one.runs, direct.runs, strict=True)]
    return round(statistics.median(gaps), 4)


def post(url: str, data: bytes) -> Any:
    """One call, to see that it answers as it should before it is loaded."""
    request = urllib.request.Request(url + CHAT, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.headers, reply.read()


def compare(mock: Server, bare: Server, junctor: Server, seconds: float, rounds: int) -> dict[str, Any]:
    """All rounds; returns the figures."""
    short = max(1.0, seconds / 2)
    call, stream = body("mock"), body("mock", stream=True)
    subjects = {
        "bare": Subject("bare", bare, call, WIDE, seconds),
        "junctor": Subject("junctor", junctor, body("auto"), WIDE, seconds),
        "proxy": Subject("junctor, proxy", junctor, call, WIDE, seconds),
        "bare_stream": Subject("bare, stream", bare, stream, WIDE, short),
        "proxy_stream": Subject("proxy, stream", junctor, stream, WIDE, short),
        "direct_1": Subject("direct, 1 conn", mock, call, 1, short),
        "bare_1": Subject("bare, 1 conn", bare, call, 1, short),
        "junctor_1": Subject("junctor, 1 conn", junctor, body("auto"), 1, short),
        "proxy_1": Subject("proxy, 1 conn", junctor, call, 1, short),
    }
    for place in range(rounds):
        say(f"round {place + 1} of {rounds}")
        order = list(subjects.values())
        for subject in reversed(order) if place % 2 else order:
            subject.run()
    s = subjects
    rates = {f"{name}_rps": round(s[name].rps(), 1) for name in ("bare", "junctor", "proxy", "bare_stream", "proxy_stream")}
    return rates | {
        "ratio_bare": ratio(s["junctor"], s["bare"]),
        "ratio_proxy": ratio(s["proxy"], s["bare"]),
        "ratio_stream": ratio(s["proxy_stream"], s["bare_stream"]),
        "added_p50_ms": added(s["junctor_1"], s["direct_1"], "p50_ms"),
        "added_p99_ms": added(s["junctor_1"], s["direct_1"], "p99_ms"),
        "proxy_added_p50_ms": added(s["proxy_1"], s["direct_1"], "p50_ms"),
        "proxy_added_p99_ms": added(s["proxy_1"], s["direct_1"], "p99_ms"),
        "bare_added_p50_ms": added(s["bare_1"], s["direct_1"], "p50_ms"),
        "bare_cpu_us": round(s["bare"].cpu(), 1),
        "junctor_cpu_us": round(s["junctor"].cpu(), 1),
        "proxy_cpu_us": round(s["proxy"].cpu(), 1),
        "rss_mb": round(junctor.rss_mb(), 1),
        "bare_rss_mb": round(bare.rss_mb(), 1),
        "requests": sum(run.requests for subject in s.values() if subject.server is junctor for run in subject.runs),
    }


def check_journal(path: Path, requests: int) -> int:
    """Decisions in the journal; every answered request must have one."""
    with path.open("rb") as file:
        decisions = sum(b'"kind":"decision"' in line[:60] for line in file)
    if decisions < requests:
        raise SystemExit(f"the journal holds {decisions} decisions for {requests} answered requests")
    return decisions


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--json", default="-", metavar="PATH", help="where the JSON goes; - is standard output")
    asked = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        mock = stack.enter_context(served("mock", lambda port: [python, str(HERE / "mock_upstream.py"), str(port)]))
        prepare(folder, mock.url, asked.encoder)
        forward = [python, str(HERE / "bare_passthrough.py")]
        bare = stack.enter_context(served("bare", lambda port: [*forward, str(port), mock.url + CHAT]))
        serve = [python, "-m", "junctor", "serve", "--config", str(folder / "junctor.toml"), "--port"]
        junctor = stack.enter_context(served("junctor", lambda port: [*serve, str(port)]))
        headers, _ = post(junctor.url, body("auto"))
        say(f"auto answers from {headers['x-junctor-target']}; load by {load.generator()}")
        found = compare(mock, bare, junctor, asked.seconds, asked.rounds)
        found["journal_decisions"] = check_journal(folder / "junctor.journal", found["requests"])
    found |= {
        "target": headers["x-junctor-target"],
        "policy": headers["x-junctor-policy"],
        "encoder": asked.encoder,
        "connections": WIDE,
        "seconds": asked.seconds,
        "rounds": asked.rounds,
        "load": load.generator(),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
    }
    text = json.dumps(found)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
