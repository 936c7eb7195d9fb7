"""Ids that stay with the object, and the spread of its Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from conftest import random_map

from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.live.object_ids import ObjectIds, position_covariance

MUG, PLATE, CAN = np.arange(0, 100), np.arange(200, 400), np.arange(500, 550)


def test_an_object_keeps_its_id_in_whatever_order_it_is_found():
    ids = ObjectIds()
    assert ids.match([MUG, PLATE], ["mug", "mug"]) == ["1", "2"]
    assert ids.match([PLATE, CAN, MUG], ["thing"] * 3) == ["2", "3", "1"]
    assert ids.match([], []) == []
    assert ids.match([np.arange(20, 120)], ["mug"]) == ["1"], "the mask grew on one side and shrank on the other"


def test_two_objects_never_share_an_id():
    ids = ObjectIds()
    assert ids.match([MUG], ["mug"]) == ["1"]
    halves = ids.match([MUG[:60], MUG[60:]], ["mug", "mug"])
    assert halves == ["1", "2"], "the half that overlaps more keeps it"
    assert ids.match([MUG[60:], MUG[:60]], ["mug", "mug"]) == ["2", "1"]


def test_words_may_be_kept_apart():
    ids = ObjectIds(of_any_label=False)
    assert ids.match([MUG], ["handle"]) == ["1"]
    assert ids.match([MUG], ["rim"]) == ["2"]
    assert ids.match([MUG], ["handle"]) == ["1"]


def test_the_spread_is_the_weighted_covariance_in_the_map_frame():
    gaussians = random_map(0, 300)
    rows = np.arange(10, 250)
    turn = Sim3(2.0, np.array([0.5, 0.5, 0.5, 0.5]), np.array([1.0, 2.0, 3.0]))
    points = turn.apply(gaussians.means[torch.from_numpy(rows)].double().numpy())
    weights = gaussians.opacities[torch.from_numpy(rows)].double().numpy()
    np.testing.assert_allclose(
        position_covariance(gaussians, rows, turn), np.cov(points.T, aweights=weights, ddof=0), atol=1e-9
    )
