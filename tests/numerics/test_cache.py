"""The cache of compiled kernels: damage costs a compilation, a closed or full disk the cache, never the result."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MODULE = """
import resource, sys, tempfile
from feature_gs_ros.numerics.runtime import kernel

@kernel
def triple(x):
    return 3.0 * x

@kernel
def half(x):
    return 0.5 * x

if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
print(triple(2.0), half(2.0), sum(sum(k.stats.cache_hits.values()) for k in (triple, half)))
"""


def run(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    if not (folder / "module.py").exists():  # a kernel's source is part of its key
        (folder / "module.py").write_text(MODULE)
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd()), "XDG_CACHE_HOME": str(folder / "cache"), **environment}
    environ.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, str(folder / "module.py"), *map(str, words)]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    return told


def test_damaged_entries_are_compiled_again(tmp_path: Path) -> None:
    assert run(tmp_path).stdout == "6.0 1.0 0\n"
    assert run(tmp_path).stdout == "6.0 1.0 2\n"
    files = [*(tmp_path / "cache").rglob("*.nbi"), *(tmp_path / "cache").rglob("*.nbc")]
    assert len(files) == 4
    for damage in ("truncated", "flipped", "empty"):
        for file in files:
            whole = file.read_bytes()
            if damage == "flipped":
                middle = len(whole) // 2
                file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :])
            else:
                file.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
        assert run(tmp_path).stdout == "6.0 1.0 0\n"
    assert run(tmp_path).stdout == "6.0 1.0 2\n"


def test_an_entry_that_leads_to_another_kernel_is_not_run(tmp_path: Path) -> None:
    """As a process killed between index and data leaves it, or two that compile at once: whole, but another's."""
    assert run(tmp_path).stdout == "6.0 1.0 0\n"
    triple, half = sorted((tmp_path / "cache").rglob("*.nbc"), key=lambda path: "half" in path.name)
    half.write_bytes(triple.read_bytes())
    assert run(tmp_path).stdout == "6.0 1.0 1\n"
    assert run(tmp_path).stdout == "6.0 1.0 2\n"


def test_a_full_disk_costs_the_cache_and_one_line(tmp_path: Path) -> None:
    told = run(tmp_path, 512)  # bytes of a file
    assert told.stdout == "6.0 1.0 0\n"
    assert len(told.stderr.splitlines()) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


@pytest.mark.parametrize("planted", ["nothing", "link", "open", "file"])
def test_a_closed_home_leads_to_a_folder_that_is_ours_alone(planted: str, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    expected = temporary / f"feature_gs_ros-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    if planted == "link":
        expected.symlink_to(tmp_path / "elsewhere")
    elif planted == "open":
        expected.mkdir()
        expected.chmod(0o777)
    elif planted == "file":
        expected.touch()
    told = run(tmp_path, XDG_CACHE_HOME="/dev/null/cache", HOME="/dev/null", TMPDIR=str(temporary))
    assert told.stdout == "6.0 1.0 0\n"
    used = [path for path in temporary.iterdir() if path.is_dir() and not path.is_symlink() and any(path.iterdir())]
    assert len(used) == 1  # for all kernels the same
    assert stat.S_IMODE(used[0].stat().st_mode) == 0o700
    assert (used[0] == expected) == (planted == "nothing")
    assert not list((tmp_path / "elsewhere").iterdir())
