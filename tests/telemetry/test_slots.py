"""Figures in mapped files: summed over workers, kept when one is killed, never counted back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from junctor.telemetry.metrics import Metrics
from junctor.telemetry.slots import CAPACITY, Slots, Workers, read_names, summed

KILLED = """
import os, signal, sys
from pathlib import Path
from junctor.telemetry.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]), 1)
for _ in range(1000):
    metrics.refused("invalid_api_key")
metrics.tick()
os.kill(os.getpid(), signal.SIGKILL)
"""


def totals(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {labels: values[0] for labels, values in metrics.read().of("refused")}


def test_workers_are_summed_whichever_is_asked(tmp_path: Path) -> None:
    one, two = Metrics(tmp_path, 0), Metrics(tmp_path, 1)
    for _ in range(3):
        one.refused("a")
    two.refused("a")
    two.refused("b")
    assert totals(one) == totals(two) == {("a",): 4.0, ("b",): 1.0}
    assert one.read().workers == 2
    one.close()
    two.close()


def test_what_a_killed_worker_counted_stays_and_its_gauges_go(tmp_path: Path) -> None:
    here = Metrics(tmp_path, 0)
    here.refused("invalid_api_key")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    shot = here.read()
    assert totals(here) == {("invalid_api_key",): 1001.0}
    assert shot.workers == 1
    assert {worker for worker, _, _ in shot.gauges} == {"0"}
    again = Metrics(tmp_path, 1)
    assert again.slots.path.name == "1.slots"
    again.refused("invalid_api_key")
    assert totals(here) == {("invalid_api_key",): 1002.0}
    assert here.read().workers == 2
    here.close()
    again.close()


def test_a_name_in_use_is_not_shared(tmp_path: Path) -> None:
    one, two = Slots(tmp_path, "0"), Slots(tmp_path, "0")
    assert one.path != two.path
    for slots, amount in ((one, 1.0), (two, 2.0)):
        slots.values[slots.take("n", (), 1)] = amount
    assert summed(Workers(one).read())[("n", ())] == [3.0]
    one.close()
    two.close()


def test_a_torn_line_of_names_is_not_read(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "0")
    slots.take("n", ("x",), 2)
    os.write(slots._names_fd, b'["n",["y"],2')
    assert read_names(tmp_path / "0.names") == [(("n", ("x",)), 0, 2)]
    slots.close()


def test_a_full_file_refuses_new_names_and_keeps_the_old() -> None:
    slots = Slots(None, "0")
    first = slots.take("n", ("x",), CAPACITY)
    assert slots.take("n", ("y",), 1) is None
    assert slots.take("n", ("x",), CAPACITY) == first


def test_files_in_use_do_not_look_old(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "0")
    paths = [tmp_path / "0.slots", tmp_path / "0.names"]
    for path in paths:
        os.utime(path, (0, 0))
    slots.touch()
    assert all(path.stat().st_mtime > 1e9 for path in paths)
    paths[0].unlink()
    slots.touch()
    slots.close()
