"""Gaussians moved from one frame into another, with what they look like from where."""

from __future__ import annotations

from dataclasses import replace

import torch

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, quats_after
from feature_gs_ros.core.sh import sh_rotation


def transformed(gaussians: GaussianMap, b_from_a: Sim3) -> GaussianMap:
    """Gaussians of frame a in frame b: positions, rotations, scales and spherical harmonics."""
    mixing = torch.from_numpy(sh_rotation(b_from_a.rotation, gaussians.sh_degree)).float()
    return replace(
        gaussians,
        means=torch.from_numpy(b_from_a.apply(gaussians.means.double().numpy())).float(),
        quats_wxyz=quats_after(b_from_a.quat_wxyz, gaussians.quats_wxyz),
        scales=gaussians.scales * b_from_a.scale,
        sh=torch.einsum("kj,njc->nkc", mixing, gaussians.sh),
    )
