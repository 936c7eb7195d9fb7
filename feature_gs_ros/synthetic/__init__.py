"""A synthetic tabletop with ground truth: what the demo shows and what tests measure against.

Surfaces are signed distances; views are ray marched, not rasterised; the splat map is sampled from the same
surfaces. Nothing here uses the rasteriser.
"""

from feature_gs_ros.synthetic.camera_path import (
    BARREL,
    PosedView,
    held_out_views,
    looking_at,
    pose_at,
    recorded_views,
    tabletop_camera,
)
from feature_gs_ros.synthetic.ray_march import SyntheticView, render_view
from feature_gs_ros.synthetic.recording import record
from feature_gs_ros.synthetic.scene import Material, Pattern, Scene, SceneObject, Solid, turned
from feature_gs_ros.synthetic.shapes import Box, Lathe, Sphere, Tube
from feature_gs_ros.synthetic.splats import SPLAT_FROM_MAP, LabelledMap, sample_gaussians
from feature_gs_ros.synthetic.tabletops import mugs, objects_grid, tabletop

__all__ = [
    "BARREL",
    "SPLAT_FROM_MAP",
    "Box",
    "LabelledMap",
    "Lathe",
    "Material",
    "Pattern",
    "PosedView",
    "Scene",
    "SceneObject",
    "Solid",
    "Sphere",
    "SyntheticView",
    "Tube",
    "held_out_views",
    "looking_at",
    "mugs",
    "objects_grid",
    "pose_at",
    "record",
    "recorded_views",
    "render_view",
    "sample_gaussians",
    "tabletop",
    "tabletop_camera",
    "turned",
]
