"""Memory: what is free is told by the kernel and the container, and work takes no more than it says."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.projector import BackProjector, memory_needed
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import BudgetError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import available_bytes, check_budget
from feature_gs_ros.extractors.precomputed import PrecomputedExtractor
from feature_gs_ros.pictures import principal_colors
from feature_gs_ros.query.masks_2d import segment_view
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.rasterizer import View
from feature_gs_ros.rasterizer.cpu.accumulator import CpuAccumulator
from tests.command_line import run
from tests.errors import raises
from tests.little_scene import write_scene

COUNT, DIMENSION = 40_000, 512
FIELD_BYTES = 4 * COUNT * DIMENSION  # 82 MB


def memory_of_process(which: str) -> int:
    """``VmRSS`` now, or ``VmHWM`` at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel doesn't tell {which}")


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that the process held at most during the work, beside what it held before.

    The least of three: libraries fill caches of their own the first time. What is looked for, a copy of a field, is
    too large for the allocator to keep between the runs.
    """
    return min(_peak_of_once(work) for _ in range(3))


def _peak_of_once(work: Callable[[], object]) -> int:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
    except OSError:
        pytest.skip("this kernel doesn't let a process count its peak anew")
    before = memory_of_process("VmRSS")
    work()
    return memory_of_process("VmHWM") - before


@pytest.fixture(scope="module")
def gaussians() -> GaussianMap:
    rng = np.random.default_rng(0)
    return GaussianMap.from_tensors(
        torch.from_numpy(rng.uniform(-1, 1, (COUNT, 3))),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(COUNT, 1),
        torch.full((COUNT, 3), 0.01),
        torch.full((COUNT,), 0.9),
        torch.zeros(COUNT, 1, 3),
    )


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> PrecomputedExtractor:
    words = tmp_path_factory.mktemp("words") / "words.npz"
    np.savez(words, thing=np.ones(DIMENSION, np.float32))
    return PrecomputedExtractor(embeddings=words, dimension=DIMENSION)


@pytest.fixture(scope="module")
def field(gaussians: GaussianMap, extractor: PrecomputedExtractor) -> FeatureField:
    features = torch.rand(COUNT, DIMENSION, generator=torch.Generator().manual_seed(0))
    count = torch.ones(COUNT, dtype=torch.int32)
    return FeatureField(features, torch.ones(COUNT), count, extractor.identity, Provenance(gaussians.checksum))


def write_cgroup(folder: Path, limit: str, used: int, statistics: str) -> Path:
    for name, text in (("max", limit), ("current", str(used)), ("stat", statistics)):
        (folder / f"memory.{name}").write_text(f"{text}\n")
    return folder


def test_files_that_were_read_are_free_memory(tmp_path: Path) -> None:
    """A container of 64 MB that has read a recording of 50: the kernel gives that back when it is asked for memory."""
    nothing = available_bytes(tmp_path / "no cgroup")
    statistics = "anon 4194304\nfile 52428800\ninactive_anon 0\ninactive_file 50331648\nactive_file 2097152"
    assert available_bytes(write_cgroup(tmp_path, "67108864", 62_914_560, statistics)) == 4_194_304 + 50_331_648
    assert available_bytes(write_cgroup(tmp_path, "67108864", 62_914_560, "inactive_file")) == 4_194_304
    assert available_bytes(write_cgroup(tmp_path, "67108864", 70_000_000, "anon 0")) == 0
    assert nothing is not None
    (tmp_path / "memory.stat").unlink()
    assert available_bytes(tmp_path) == 0
    for limit in ("max", "no number"):
        unlimited = available_bytes(write_cgroup(tmp_path, limit, 62_914_560, statistics))
        assert unlimited is not None
        assert unlimited > 0.5 * nothing  # the machine's own


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_colours_of_features_copy_no_features(kind: torch.dtype) -> None:
    features, weight = torch.rand(400_000, 64).to(kind), torch.ones(400_000)
    assert peak_of(lambda: principal_colors(features, weight)) < 0.6 * 4 * features.numel()


@pytest.mark.slow
def test_rendered_features_are_copied_once(
    gaussians: GaussianMap, field: FeatureField, extractor: PrecomputedExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All Gaussians in view, some unseen: one copy for all bands, and the scores are those of the definition."""
    monkeypatch.setattr("feature_gs_ros.query.masks_2d.BAND_BYTES", 1 << 20)
    count = field.view_count.clone()
    count[::3] = 0
    partly = replace(field, view_count=count)
    pose = np.eye(4)
    pose[2, 3] = 3.0
    view = rasterizer.view(gaussians, Camera(96, 64, 60, 60, 48, 32), pose)
    assert len(view.visible) == COUNT
    segmenter = Segmenter(gaussians, partly, extractor)
    segment_view(segmenter, view, ["thing"])  # kernels compiled
    assert peak_of(lambda: segment_view(segmenter, view, ["thing"])) < 1.6 * FIELD_BYTES
    scores, _ = segment_view(segmenter, view, ["thing"])
    rendered = view.render(partly.features * partly.seen[:, None]).reshape(-1, DIMENSION)
    expected = torch.nn.functional.cosine_similarity(rendered, torch.ones(1, DIMENSION))
    assert torch.allclose(scores.reshape(-1), expected, atol=1e-4)


@pytest.mark.slow
def test_going_on_with_a_field_copies_its_features_once(gaussians: GaussianMap, field: FeatureField) -> None:
    BackProjector(gaussians, field.extractor, 1)  # sorted along the kernels' curve, once per map
    projector: list[BackProjector] = []
    assert peak_of(lambda: projector.append(BackProjector.resume(gaussians, field))) < 1.5 * FIELD_BYTES
    assert torch.allclose(projector[0].field().features, field.features, atol=1e-6)


def test_what_a_field_to_go_on_from_holds_is_part_of_the_need(
    gaussians: GaussianMap, field: FeatureField, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new field just fits; once it is read again, so much less is free, and going on needs so much less."""
    needed = memory_needed(COUNT, DIMENSION)
    monkeypatch.setattr("feature_gs_ros.core.memory.available_bytes", lambda: int(needed / 0.8) + 1 - FIELD_BYTES)
    with raises("budget"):
        BackProjector(gaussians, field.extractor, DIMENSION)
    BackProjector.resume(gaussians, field)
    with pytest.raises(BudgetError):
        check_budget(10, 9, "work", "mend", already_allocated=5)  # a budget that is given counts all


@pytest.mark.slow
def test_render_reads_its_field_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_scene(tmp_path)
    run("backproject", scene / "map.ply", scene, "--out", scene / "field", "--extractor", "color")
    reads: list[object] = []
    load = FeatureField.load
    monkeypatch.setattr(FeatureField, "load", staticmethod(lambda path: (reads.append(path), load(path))[1]))
    run("render", scene / "field", "--stream", scene, "--index", "0000", "--query", "red", "--out", scene / "pictures")
    assert reads == [scene / "field"]
    assert (scene / "pictures" / "mask.png").exists()


REUSE = """
import resource, sys
import numpy as np
from feature_gs_ros.core.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def view():
    arrays = [np.ones(3 << 20, np.uint8) for _ in range(60)]
for _ in range(3):
    view()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    view()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_freed_memory_is_used_again() -> None:
    """Sixty arrays of 3 MB are 46,000 pages: with the C library's own settings the system takes them back each time."""
    runs = [subprocess.run([sys.executable, "-c", REUSE, how], capture_output=True, text=True, check=True)
            for how in ("kept", "given back")]  # fmt: skip
    kept, given_back = (int(run.stdout) for run in runs)
    if given_back < 10_000:
        pytest.skip("this C library keeps freed memory anyway")
    assert kept < given_back / 10


TENSORS = """
import mmap, resource
import numpy as np
import feature_gs_ros
import torch
def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pages.madvise(mmap.MADV_HUGEPAGE)
def fill():
    np.frombuffer(pages, np.uint8)[:] = 1
print(faults(fill), faults(lambda: torch.ones(64 << 20, dtype=torch.uint8)))
"""


@pytest.mark.slow
def test_large_tensors_come_in_large_pages() -> None:
    """A tensor of 64 MB is 16,384 small pages, 32 large ones."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no large pages")
    unset = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    run = subprocess.run([sys.executable, "-c", TENSORS], capture_output=True, text=True, check=False, env=unset)
    asked_for, of_tensor = map(int, run.stdout.split() or (1 << 20, 0))
    if asked_for > 8000:
        pytest.skip("this kernel has no large pages to give")
    assert of_tensor < 8000


def test_groups_around_the_process_count(tmp_path: Path) -> None:
    """As of a systemd service without a namespace of its own: the limit stands in a folder below the root."""
    group, process = tmp_path / "sys" / "system.slice" / "robot.service", tmp_path / "proc"
    group.mkdir(parents=True)
    process.mkdir()
    (process / "cgroup").write_text("0::/system.slice/robot.service\n")
    (tmp_path / "sys" / "system.slice" / "memory.max").write_text("max\n")
    (tmp_path / "sys" / "system.slice" / "memory.current").write_text("5\n")
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("3000000\n")
    assert available_bytes(tmp_path / "sys", process) == 2_000_000
    (tmp_path / "sys" / "system.slice" / "memory.max").write_text("1000005\n")
    assert available_bytes(tmp_path / "sys", process) == 1_000_000


def test_groups_of_the_first_version_count(tmp_path: Path) -> None:
    group, process = tmp_path / "sys" / "memory" / "docker" / "id", tmp_path / "proc"
    group.mkdir(parents=True)
    process.mkdir()
    (process / "cgroup").write_text("7:cpu,cpuacct:/docker/id\n4:memory:/docker/id\n")
    (group / "memory.limit_in_bytes").write_text("4000000\n")
    (group / "memory.usage_in_bytes").write_text("1000000\n")
    assert available_bytes(tmp_path / "sys", process) == 3_000_000


@pytest.mark.parametrize("which", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_process_s_own_limits_count(which: str) -> None:
    code = f"""
import resource
from feature_gs_ros.core.memory import available_bytes
resource.setrlimit(resource.{which}, (3 << 30, 3 << 30))
free = available_bytes()
assert 0 < free < 3 << 30, free
held = bytearray(1 << 29)
assert free - available_bytes() > 1 << 28
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_an_allocation_that_fails_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_scene(tmp_path)
    whole, calls = CpuAccumulator.add, []

    def failing(self: CpuAccumulator, views: Sequence[View], *rest: Any) -> None:
        calls.append(len(views))
        if len(calls) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        whole(self, views, *rest)

    monkeypatch.setattr(CpuAccumulator, "add", failing)
    defaults = BackProjector.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "batch", 1)
    told = run("backproject", scene / "map.ply", scene, "--extractor", "color", "--out", tmp_path / "field", code=130)
    assert "memory" in told.stdout + told.stderr
    assert len(FeatureField.load(tmp_path / "field").provenance.frames) == 2
