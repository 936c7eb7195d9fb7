"""Whether LLVM's vectors work here: they are built on numba's internals, which a release may change.

Decided when the first kernel that needs vectors is imported; `FEATURE_GS_SIMD` decides otherwise. That they work is
remembered in the cache folder, for these sources on this processor with this numba; that they don't is found out anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
from functools import cache
from pathlib import Path

import llvmlite
import numba
import numpy as np
from llvmlite import binding

from feature_gs_ros.core.cache_folder import cache_folder
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.numerics.runtime import SIMD, kernel, name_variant, stamps_of
from feature_gs_ros.numerics.simd.size import SIZE

VARIABLE = "FEATURE_GS_SIMD"
log = logging.getLogger(__name__)


@cache
def reason_for_scalars() -> str:
    """Why kernels take their lanes one by one in this process; empty where they are LLVM's vectors."""
    wish = os.environ.get(VARIABLE, "").strip()
    if wish not in ("", "0", "1"):
        log.warning("%s=%s is neither 0 (lane by lane) nor 1 (vectors where they work): taken for 1", VARIABLE, wish)
    reason = f"{VARIABLE}=0 asks for it" if wish == "0" else _fault_of_vectors()
    if reason:
        name_variant("scalar")
        log.warning("%s", describe(reason))
    return reason


def check_scalars() -> None:
    """Compile and run a small kernel of the fallback, for who would rasterise with it.

    Raises:
        BackendError: it doesn't compile either, or gives the wrong sum.
    """
    advice = "install a numba from 0.58 to 0.68, or use the backend reference for small scenes"
    try:
        from feature_gs_ros.numerics.simd.scalar import broadcast, load, store, total

        def dot(one, other, products):
            vector = load(one, 0) * load(other, 0) + broadcast(np.float32(1))
            store(products, 0, vector)
            return total(vector)

        one, products = np.arange(SIZE, dtype=np.float32), np.zeros(SIZE, np.float32)
        found, expected = kernel(dot)(one, one, products), one * one + 1
    except Exception as error:  # whatever numba's internals raise
        raise BackendError(
            f"numba {numba.__version__} compiles the CPU's kernels neither with vectors nor lane by lane "
            f"({_first_line(error)}): {advice}",
            code="backend.unusable",
        ) from error
    if found != expected.sum() or not np.array_equal(products, expected):
        raise BackendError(
            f"numba {numba.__version__} gives {found} instead of {expected.sum()}: {advice}", code="backend.unusable"
        )


def describe(reason: str) -> str:
    """One line of what the fallback means and what ends it."""
    remedy = f"unset {VARIABLE}" if reason.startswith(VARIABLE) else "install a numba from 0.58 to 0.68"
    return f"the CPU's kernels run without vector instructions, a few times slower ({reason}); {remedy} to have them"


def _fault_of_vectors() -> str:
    """What is wrong with LLVM's vectors; empty where each of their operations compiles and gives the right values."""
    mark = _mark()
    if mark.exists():
        return ""
    try:
        from feature_gs_ros.numerics.simd.llvm.check import results, wanted

        found, expected = results(), wanted()
    except Exception as error:  # whatever numba's internals raise
        return f"numba {numba.__version__} doesn't compile them: {_first_line(error)}"
    wrong = np.flatnonzero(~np.isclose(found, expected, rtol=1e-5, atol=1e-5))
    if len(wrong):
        first = int(wrong[0])
        return f"numba {numba.__version__} gives {found[first]} instead of {expected[first]} in the check {first}"
    with contextlib.suppress(OSError):  # a folder that can't be written: the next process checks again
        mark.touch()
    return ""


def _mark() -> Path:
    """The empty file that says: these vectors gave the right values here."""
    versions = platform.python_version(), numba.__version__, llvmlite.__version__
    processor = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    key = hashlib.sha256(repr((versions, processor, stamps_of(SIMD))).encode()).hexdigest()
    return cache_folder("vectors") / key[:32]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
