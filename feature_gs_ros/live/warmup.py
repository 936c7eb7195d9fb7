"""The work of a node in miniature, so that kernels are compiled before the first frame and the first question."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import Interpolation
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.live.live_field import LiveField, LiveMap
from feature_gs_ros.query.clicks import point_of_pixel, weights_near, weights_of_pixel
from feature_gs_ros.query.objects import find_objects
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.rasterizer import BackendChoice, get_backend

SIDE = 16  # Gaussians along an edge of the wall that is looked at: more than the smoothing solves for in one step
PIXELS = 64


def warm_up(backend: BackendChoice = "auto") -> float:
    """Learn a wall of a few Gaussians and ask for it, draw it, click on it; how many seconds that took.

    The first time on a machine numba compiles for some ten seconds and keeps the result in its cache; later it takes a
    fraction of a second.

    Raises:
        BackendError: the backend can't run here.
    """
    start = time.perf_counter()
    wall, extractor = _wall(), make_extractor("color", cell=4)
    live = LiveField(
        LiveMap(wall, "", Sim3(1.0, np.array([1.0, 0, 0, 0]), np.zeros(3)), extractor, get_backend(backend), None)
    )
    camera = Camera(PIXELS, PIXELS, fx=PIXELS, fy=PIXELS, cx=PIXELS / 2, cy=PIXELS / 2)
    pose = np.eye(4)
    pose[2, 3] = 2.0
    view = live.map.view(camera, pose)
    picture = np.full((PIXELS, PIXELS, 3), (200, 30, 30), np.uint8)
    grid = extractor.extract(picture)
    kinds: tuple[Interpolation, ...] = ("bilinear", "nearest")
    for k, interpolation in enumerate(kinds):
        live.add(view, replace(grid, interpolation=interpolation), torch.ones(PIXELS, PIXELS) if k else None, str(k))
    live.flush()
    view.render_color()
    view.render_depth()
    live.question().segmenter.ask(["red"])  # of the accumulators, before there is a snapshot
    answer = live.snapshot().segmenter.ask(["red"])[0]
    everything = torch.ones(len(wall), dtype=torch.bool)
    find_objects(wall, everything, answer.similarity, live.map.splat_from_map)
    GaussianGraph(wall).smooth(answer.similarity[:, None], 0.9)
    weights = weights_of_pixel(view, PIXELS / 2, PIXELS / 2)
    point_of_pixel(view, weights, PIXELS / 2, PIXELS / 2)
    weights_near(wall, [0.0, 0.0, 0.0], 0.1)
    return time.perf_counter() - start


def _wall() -> GaussianMap:
    """Red, one unit wide, at right angles to z."""
    xs, ys = np.meshgrid(*2 * [np.linspace(-0.5, 0.5, SIDE)])
    count = xs.size
    return GaussianMap.from_tensors(
        torch.from_numpy(np.stack([xs.ravel(), ys.ravel(), np.zeros(count)], axis=1)),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        torch.full((count, 3), 0.05),
        torch.full((count,), 0.9),
        torch.tensor([[[1.0, -1.0, -1.0]]]).repeat(count, 1, 1),
    )
