"""Clicks with SAM as the extractor: the answer is its mask on the rendered embedding. Needs segment-anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from extractor_weights import published_shapes, seeded_state
from geometry_msgs.msg import Point

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.editing import Delete, Edit, EditStack, Selection
from feature_gs_ros.extractors.libraries import installed
from feature_gs_ros.extractors.sam import SamExtractor, weights_file
from feature_gs_ros.identity.voting import vote
from feature_gs_ros.live.shown_map import ShownMap
from feature_gs_ros.msg import Answer
from feature_gs_ros.query.sam import segment_rendered_view
from feature_gs_ros.rasterizer import view
from feature_gs_ros.srv import Load, QueryPoints, Save
from ros.harness import Robot, Starter, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture

PIXELS = [(60.0, 50.0), (90.0, 70.0)]  # (0, 0) is the top left pixel's centre


def test_the_clouds_gaussians_are_those_under_sams_mask(start: Starter, robot: Robot, gaussians, tmp_path: Path):
    if not installed("segment_anything"):
        pytest.skip("segment-anything is not installed")
    weights = tmp_path / weights_file("vit_b").name
    torch.save(seeded_state(published_shapes("sam_vit_b"), 7), weights)
    start.active(extractor="sam", extractor_options=f"{{weights: {weights}}}")
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    pose = camera_from_map(0.2)
    robot.publish_info(robot.now())
    robot.publish_posed(take_picture(gaussians, pose), pose)
    request = QueryPoints.Request(camera="camera", points=[Point(x=x, y=y) for x, y in PIXELS])

    def asked() -> QueryPoints.Response | None:
        response = robot.call(QueryPoints, "/feature_map/query_points", request)
        return response if response.answer.views == 1 else None

    response = wait_until(asked, 120.0, "an answer from one view")
    assert "SAM's mask of 2 points" in response.answer.message, response.answer.message
    assert "sam" in [step.step for step in response.answer.timing]
    assert robot.call(Save, "/feature_map/save", Save.Request(path="sam.safetensors")).success
    field = FeatureField.load(start.data / "sam.safetensors")
    sam = SamExtractor(weights=weights, device="cpu")
    seen_from = view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose))
    points = np.array(PIXELS) + 0.5
    masks = segment_rendered_view(sam, gaussians, field, CAMERA, seen_from.camera_from_splat, points, [1, 1])
    expected = int((vote([(seen_from, (masks.logits[0] > 0).numpy())]).selected & field.seen).sum())
    assert f": {expected} Gaussians" in response.answer.message
    if response.answer.state == Answer.FOUND:
        assert response.cloud.width == expected
    # The same click on an edited map, of which every third Gaussian is gone.
    rows = torch.arange(0, len(gaussians), 3)
    edits = EditStack(gaussians, SPLAT_FROM_MAP.inverse())
    shown = ShownMap.of(edits.push(Edit(Delete(), "some", Selection(rows, torch.ones(len(rows))))))
    edits.save(start.data / "sam.safetensors.edits")
    assert robot.call(Load, "/feature_map/load", Load.Request(path="sam.safetensors")).success
    message = robot.call(QueryPoints, "/feature_map/query_points", request).answer.message
    seen_from = view(shown.gaussians, CAMERA, seen_from.camera_from_splat)
    masks = segment_rendered_view(
        sam, shown.gaussians, shown.field(field), CAMERA, seen_from.camera_from_splat, points, [1, 1]
    )
    selected = vote([(seen_from, (masks.logits[0] > 0).numpy())]).selected & field.seen
    selected[rows] = False
    assert f": {int(selected.sum())} Gaussians" in message
    assert int(selected.sum()) != expected
