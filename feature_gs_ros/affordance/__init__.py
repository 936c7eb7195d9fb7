"""Affordance transfer: regions marked on a few images, found on the map (section 3.3 of Joseph et al.).

A `Library` holds annotated images of one extractor; `transfer` lets their patches vote for every Gaussian of a field;
`find_regions` makes parts with a pose of it.
"""

from feature_gs_ros.affordance.baseline import transfer_by_views
from feature_gs_ros.affordance.evaluation import evaluate_affordances, render_affordances
from feature_gs_ros.affordance.library import Library
from feature_gs_ros.affordance.regions import Region, find_regions
from feature_gs_ros.affordance.source import Source, box_labels, make_source
from feature_gs_ros.affordance.transfer import Settings, Transfer, transfer

__all__ = [
    "Library",
    "Region",
    "Settings",
    "Source",
    "Transfer",
    "box_labels",
    "evaluate_affordances",
    "find_regions",
    "make_source",
    "render_affordances",
    "transfer",
    "transfer_by_views",
]
