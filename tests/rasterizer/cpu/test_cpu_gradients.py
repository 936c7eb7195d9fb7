"""The CPU's gradients: the same bits for any number of threads."""

from __future__ import annotations

import torch
from conftest import random_camera, random_map

from feature_gs_ros.numerics.runtime import set_thread_count, thread_count
from feature_gs_ros.rasterizer.cpu import CpuBackend


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    gaussians, (camera, pose) = random_map(7, 200, degree=1), random_camera(7)
    tensors = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
    before = thread_count()
    found = []
    try:
        for threads in (1, 3):
            set_thread_count(threads)
            leaves = [tensor.clone().requires_grad_() for tensor in (*tensors, torch.ones(200, 9))]
            ours = CpuBackend().render_with_gradients(*leaves[:5], camera, pose, leaves[5])
            assert ours.extra is not None
            (ours.color.square().sum() + ours.extra.square().sum()).backward()
            found.append([leaf.grad for leaf in leaves])
    finally:
        set_thread_count(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))  # type: ignore[arg-type]
