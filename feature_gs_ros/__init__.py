"""Ask a 3D Gaussian-splat map in words, by example or by a click.

>>> import feature_gs_ros as fgs
>>> gaussians = fgs.load_map("map.ply")  # doctest: +SKIP
>>> field = fgs.back_project(gaussians, fgs.open_stream("recording"))  # doctest: +SKIP
>>> answer = fgs.Segmenter(gaussians, field).ask(["coffee mug"])[0]  # doctest: +SKIP

The names below are the library's door; they are imported when first used, so that importing the package is quick.
Everything else may move between releases. The library has no ROS import; only ``feature_gs_ros.ros`` has, and
`FeatureMapClient`, which asks a running node, comes from there.
"""

from __future__ import annotations

import os
from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# torch's idle OpenMP threads would spin for milliseconds, on the very cores that our kernels' threads, the camera's
# driver and the planner need. Read when torch is loaded; whoever has set it keeps it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A network's large tensors in large pages: in small ones, which the system hands out one by one and clears each time,
# they took about a fifth of an extractor's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# In a colcon workspace the generated messages and this tree are two folders of one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.2.0"

if TYPE_CHECKING:
    from feature_gs_ros.backprojection.build import back_project as back_project
    from feature_gs_ros.backprojection.field import FeatureField as FeatureField
    from feature_gs_ros.backprojection.projector import BackProjector as BackProjector
    from feature_gs_ros.core.camera import Camera as Camera
    from feature_gs_ros.core.errors import FeatureGsError as FeatureGsError
    from feature_gs_ros.core.feature_grid import FeatureGrid as FeatureGrid
    from feature_gs_ros.core.gaussians import GaussianMap as GaussianMap
    from feature_gs_ros.core.geometry import Sim3 as Sim3
    from feature_gs_ros.extractors import make_extractor as make_extractor
    from feature_gs_ros.io.alignment import load_alignment as load_alignment
    from feature_gs_ros.io.splats.registry import load_map as load_map
    from feature_gs_ros.io.splats.registry import save_ply as save_ply
    from feature_gs_ros.io.streams.registry import open_stream as open_stream
    from feature_gs_ros.query.masks_3d import Answer as Answer
    from feature_gs_ros.query.masks_3d import Segmenter as Segmenter
    from feature_gs_ros.query.masks_3d import State as State
    from feature_gs_ros.query.objects import find_objects as find_objects
    from feature_gs_ros.rasterizer import view as view
    from feature_gs_ros.ros.client import FeatureMapClient as FeatureMapClient

_HOMES = {
    "Answer": "query.masks_3d",
    "BackProjector": "backprojection.projector",
    "Camera": "core.camera",
    "FeatureField": "backprojection.field",
    "FeatureGrid": "core.feature_grid",
    "FeatureGsError": "core.errors",
    "GaussianMap": "core.gaussians",
    "Segmenter": "query.masks_3d",
    "Sim3": "core.geometry",
    "State": "query.masks_3d",
    "back_project": "backprojection.build",
    "find_objects": "query.objects",
    "load_alignment": "io.alignment",
    "load_map": "io.splats.registry",
    "make_extractor": "extractors",
    "open_stream": "io.streams.registry",
    "save_ply": "io.splats.registry",
    "view": "rasterizer",
}

_ROS_HOMES = {"FeatureMapClient": "ros.client"}  # needs rclpy and the messages, so it isn't in __all__

__all__ = [
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    """A public name, imported on first use (PEP 562)."""
    home = _HOMES.get(name) or _ROS_HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
