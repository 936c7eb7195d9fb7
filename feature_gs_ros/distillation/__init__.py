"""Feature 3DGS: a teacher's features distilled into a map by optimisation, where `backprojection` takes means.

With frozen geometry the features that render best are a linear least-squares problem (`solving.solve_cells`); training
reaches the same by steps (`FeatureTrainer`), and alone can train a decoder, or the geometry too (`JointTrainer`).
"""

from __future__ import annotations

from feature_gs_ros.distillation.decoder import Decoder
from feature_gs_ros.distillation.frozen import FeatureTrainer, FrozenOptions
from feature_gs_ros.distillation.joint import JointOptions, JointTrainer
from feature_gs_ros.distillation.targets import (
    DistillationTarget,
    distillation_targets,
    field_of,
    rendered_cosine,
    useful_passes,
)

__all__ = [
    "Decoder",
    "DistillationTarget",
    "FeatureTrainer",
    "FrozenOptions",
    "JointOptions",
    "JointTrainer",
    "distillation_targets",
    "field_of",
    "rendered_cosine",
    "useful_passes",
]
