"""One thread for linear algebra: a decision is far too small to share, and waiting for a second core costs milliseconds.

Measured on two busy cores, nearest neighbours over 36,000 rows: 1.2 ms with one thread, 15.7 ms with two (docs/gateway.md).
`OPENBLAS_NUM_THREADS=1` does the same, but only when it is set before numpy is imported.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SWITCHES = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads")
MAPS = Path("/proc/self/maps")


def one_blas_thread() -> int:
    """Tell every OpenBLAS in this process to use one thread, unless the environment says otherwise; returns how many were told.

    Does nothing where libraries cannot be listed (no /proc) or another BLAS is in use.
    """
    if "OPENBLAS_NUM_THREADS" in os.environ or not MAPS.exists():
        return 0
    paths = {line.split(maxsplit=5)[-1].strip() for line in MAPS.read_text().splitlines() if "openblas" in line}
    return sum(_tell(path) for path in paths)


def _tell(path: str) -> bool:
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return False
    switch = next((found for name in SWITCHES if (found := getattr(library, name, None)) is not None), None)
    if switch is not None:
        switch(1)
    return switch is not None
