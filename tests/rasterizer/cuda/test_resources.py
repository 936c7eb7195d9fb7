"""What the compiler says of every kernel, for cards that are not here: no spills, and room for half of the warps."""

from __future__ import annotations

import pytest

pytest.importorskip("warp")

from feature_gs_ros.rasterizer.cuda.compile import known_architectures
from feature_gs_ros.rasterizer.cuda.resources import Resources, find_ptxas, kernel_resources

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("architecture", [75, 80, 86, 87, 89, 90, 100, 120])
def test_no_kernel_spills_and_half_of_the_warps_fit(architecture: int) -> None:
    ptxas = find_ptxas()
    if ptxas is None:
        pytest.skip("no ptxas: pip install nvidia-cuda-nvcc")
    if architecture not in known_architectures():
        pytest.skip(f"the installed warp-lang doesn't compile for sm_{architecture}")
    found = kernel_resources(architecture, ptxas)
    assert len(found) > 15
    assert {kernel.kernel for kernel in found if kernel.spills or kernel.stack} == set()
    assert {kernel.kernel: kernel.registers for kernel in found if kernel.occupancy < 0.5} == {}


@pytest.mark.parametrize(
    ("registers", "architecture", "occupancy"),
    [(32, 90, 1.0), (64, 90, 0.5), (65, 90, 0.375), (128, 75, 0.5), (255, 75, 0.25), (40, 89, 1.0)],
)
def test_occupancy_is_that_of_the_resource_table(registers: int, architecture: int, occupancy: float) -> None:
    """By hand: 65,536 registers, given to warps by 256; blocks of 256 threads."""
    assert Resources("", architecture, registers, 0, 0, 0).occupancy == pytest.approx(occupancy)
