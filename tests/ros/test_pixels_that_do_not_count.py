"""The robot's own arm in its camera's image: a static mask, and a mask topic."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import torch
from sensor_msgs.msg import Image

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.live.ignored_pixels import counted_pixels
from feature_gs_ros.pictures import save_png
from feature_gs_ros.rasterizer import view
from feature_gs_ros.ros.convert.plain import Outcome
from ros.harness import RELIABLE, Robot, Starter, Watch, image_message, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture, transform_of

ARM = (235, 215, 40)  # yellow: nothing on the table is
VIEWS = 10


def drive_arm(k: int) -> np.ndarray:
    """Where the arm is in the k-th image, [H, W] bool: a bar that comes in from the right and sweeps down."""
    mask = np.zeros((CAMERA.height, CAMERA.width), np.uint8)
    cv2.line(mask, (CAMERA.width, 20 + 8 * k), (30, 40 + 4 * k), 255, 24)
    return mask > 0


def without_arm(gaussians) -> FeatureField:
    """What is learned of the same flight where the arm is never in the picture, of the pixels that count."""
    extractor = make_extractor("color", cell=4)
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
    for k in range(VIEWS):
        pose = camera_from_map(k / VIEWS)
        grid = extractor.extract(take_picture(gaussians, pose))
        counted = torch.from_numpy(counted_pixels(drive_arm(k), grid))
        projector.add(view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose)), grid, counted)
    return projector.field()


def fly_with_arm(robot: Robot, gaussians, masks=None, shift: int = 0) -> None:
    begin = robot.now()
    robot.publish_info(begin)
    for k in range(VIEWS):
        pose, stamp = camera_from_map(k / VIEWS), begin + 10_000_000 * k  # closer than mask_tolerance
        picture = take_picture(gaussians, pose)
        picture[drive_arm(k)] = ARM
        robot.publish_tf(stamp, *transform_of(pose))
        robot.publish_image(picture, stamp)
        if masks is not None:
            time.sleep(0.05)  # a frame is there before its mask, and must not take the last one's
            masks.publish(image_message(drive_arm(k).astype(np.uint8) * 255, stamp + shift, encoding="mono8"))


def test_without_a_mask_the_map_learns_the_arm(robot, start: Starter, client, gaussians):
    """Or the two tests below would pass without a guard."""
    start.active()
    watch = Watch(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    fly_with_arm(robot, gaussians)
    assert watch.outcome(VIEWS) == (VIEWS, {})
    assert client.ask("yellow")


@pytest.mark.parametrize("shift", [2_000_000, -2_000_000])  # ns, within mask_tolerance
def test_an_arm_on_the_mask_topic_leaves_no_trace(robot, start: Starter, client, gaussians, shift):
    start.active(camera__mask_topic="/robot_mask", tf_timeout=5.0)
    masks = robot.node.create_publisher(Image, "/robot_mask", RELIABLE)
    watch = Watch(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1 and masks.get_subscription_count() == 1)
    fly_with_arm(robot, gaussians, masks, shift)
    assert watch.outcome(VIEWS) == (VIEWS, {})
    assert client.ask("yellow").outcome is Outcome.NOT_FOUND
    field, expected = FeatureField.load(client.save()), without_arm(gaussians)
    torch.testing.assert_close(field.view_count, expected.view_count)
    torch.testing.assert_close(field.features, expected.features, atol=1e-2, rtol=1e-3)
    if shift < 0:
        return
    # Without its mask a frame isn't used: better none than the arm.
    robot.publish_posed(take_picture(gaussians, camera_from_map(0.05)), camera_from_map(0.05))
    assert watch.outcome(1) == (0, {"no mask on '/robot_mask' within tf_timeout": 1})
    stamp = robot.publish_posed(take_picture(gaussians, camera_from_map(0.05)), camera_from_map(0.05))
    masks.publish(image_message(np.zeros((7, 9), np.uint8), stamp, encoding="mono8"))
    assert watch.outcome(1) == (0, {"mask is 9×7 pixels, the image 160×120": 1})


def test_pixels_of_the_static_mask_are_not_learned(robot, start: Starter, client, gaussians, tmp_path):
    swept = np.any([drive_arm(k) for k in range(VIEWS)], axis=0)
    save_png(swept.astype(np.uint8) * 255, tmp_path / "mask.png")
    start.active(camera__mask_image=str(tmp_path / "mask.png"))
    watch = Watch(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    fly_with_arm(robot, gaussians)
    assert watch.outcome(VIEWS) == (VIEWS, {})
    assert not client.ask("yellow")
