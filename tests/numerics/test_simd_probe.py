"""Where LLVM's vectors don't work, the same kernels run lane by lane, say so, and pass the same tests."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.numerics import runtime
from feature_gs_ros.numerics.simd import probe, scalar
from feature_gs_ros.numerics.simd.llvm import check
from tests.errors import raises

ROOT = Path(__file__).parents[2]
TESTS = ("tests/numerics/test_vectors.py", "tests/numerics/test_columns.py", "tests/rasterizer/contract")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test asks anew, and none changes what this process's kernels are made of."""
    monkeypatch.setattr(probe, "name_variant", lambda _name: None)
    monkeypatch.setattr(probe, "cache_folder", lambda _name: tmp_path)
    monkeypatch.delenv(probe.VARIABLE, raising=False)
    probe.reason_for_scalars.cache_clear()
    yield
    probe.reason_for_scalars.cache_clear()


def test_the_installed_numba_has_vectors(caplog: pytest.LogCaptureFixture) -> None:
    assert probe.reason_for_scalars() == ""
    assert caplog.text == ""


def test_that_they_work_is_checked_once_per_processor_and_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert probe.reason_for_scalars() == ""
    monkeypatch.setattr(check, "results", lambda: check.wanted() + 1)
    probe.reason_for_scalars.cache_clear()  # as in another process
    assert probe.reason_for_scalars() == ""
    monkeypatch.setattr(probe, "stamps_of", lambda _folder: [("types.py", 1, 2)])
    probe.reason_for_scalars.cache_clear()
    assert probe.reason_for_scalars() != ""
    assert len(list(tmp_path.iterdir())) == 1


def test_vectors_work_without_a_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "cache_folder", lambda _name: tmp_path / "not" / "there")
    assert probe.reason_for_scalars() == ""


@pytest.mark.parametrize("index", range(0, len(check.wanted()), 5))
def test_a_wrong_value_is_noticed(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = check.wanted()
    wrong[index] += 0.5
    monkeypatch.setattr(check, "results", lambda: wrong)
    assert f"instead of {check.wanted()[index]}" in probe.reason_for_scalars()


def test_what_does_not_compile_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> np.ndarray:
        raise AttributeError("no attribute 'make_array'\nand a long trace")

    monkeypatch.setattr(check, "results", broken)
    with caplog.at_level(logging.WARNING):
        assert "make_array" in probe.reason_for_scalars()
        probe.reason_for_scalars()
    (record,) = caplog.records
    text = record.getMessage()
    assert "slower" in text
    assert "make_array" in text
    assert "install a numba" in text
    assert "\n" not in text


@pytest.mark.parametrize(("value", "scalars"), [("0", True), ("1", False), ("", False), ("yes", False)])
def test_the_variable_decides(value: str, scalars: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(probe.VARIABLE, value)
    assert bool(probe.reason_for_scalars()) == scalars


def test_lane_by_lane_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.check_scalars()
    monkeypatch.delattr(scalar, "load")
    with raises("backend.unusable", "reference"):
        probe.check_scalars()


def test_kernels_of_other_vectors_lie_in_another_folder() -> None:
    def nothing() -> None:
        pass

    folders = set()
    try:
        for variant in ("", "scalar", "another"):
            runtime.name_variant(variant)
            folders.add(runtime.kernel(nothing).stats.cache_path)
    finally:
        runtime.name_variant("")
    assert len(folders) == 3


def _python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEATURE_GS_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_process_without_vectors_goes_on_with_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['feature_gs_ros.numerics.simd.llvm.check'] = None\n"
        "import torch\n"
        "from feature_gs_ros.numerics.products import inner_products\n"
        "print(inner_products(torch.ones(3, 37), torch.ones(2, 37)).sum().item())"
    )
    found = _python("-c", code, XDG_CACHE_HOME=str(tmp_path))  # where nothing says that they work
    assert found.stdout.strip() == str(6 * 37.0)
    assert len(found.stderr.splitlines()) == 1
    assert "slower" in found.stderr


@pytest.mark.slow
def test_the_same_tests_pass_lane_by_lane() -> None:
    found = _python(
        "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS, "-k", "not reference and not warp and not cuda",
        FEATURE_GS_SIMD="0",
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-4000:]
    assert " passed" in found.stdout or "100%" in found.stdout
