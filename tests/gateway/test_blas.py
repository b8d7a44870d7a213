"""One BLAS thread in a process that serves."""

import subprocess
import sys

import pytest

from junctor.gateway import blas

CODE = """
import os, sys
os.environ.pop("OPENBLAS_NUM_THREADS", None)
import numpy, threadpoolctl
from junctor.gateway.blas import one_blas_thread
said = one_blas_thread()
print(said, [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["internal_api"] == "openblas"])
"""


def test_openblas_uses_one_thread_afterwards():
    """Asked of the library itself, in a process of its own."""
    pytest.importorskip("threadpoolctl")
    if not blas.MAPS.exists():
        pytest.skip("libraries cannot be listed here")
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    told, threads = said.split(maxsplit=1)
    if threads.strip() == "[]":
        pytest.skip("numpy is not built on OpenBLAS here")
    assert int(told) >= 1
    assert set(eval(threads)) == {1}


def test_the_environment_has_the_last_word(monkeypatch):
    """Whoever sets the variable means it."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert blas.one_blas_thread() == 0


def test_what_is_no_openblas_is_left_alone(monkeypatch, tmp_path):
    """A library that is gone, or has no such switch, counts for nothing; without a list nothing happens."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    maps = tmp_path / "maps"
    monkeypatch.setattr(blas, "MAPS", maps)
    assert blas.one_blas_thread() == 0
    maps.write_text("7f00-7f01 r-xp 00000000 00:00 0    /nowhere/libopenblas.so\n")
    assert blas.one_blas_thread() == 0
