"""What was found as MoveIt's collision objects, with a stand-in for move_group."""

from __future__ import annotations

import numpy as np
import pytest
from std_srvs.srv import Trigger

from feature_gs_ros import FeatureMapClient
from ros.harness import LATCHED, Robot, Starter, Watch, wait_until
from ros.scene import BLOCKS, TABLE, camera_from_map, take_picture

msg = pytest.importorskip("moveit_msgs.msg")
srv = pytest.importorskip("moveit_msgs.srv")
VIEWS = 8


@pytest.mark.parametrize("shape", ["box", "hull"])
def test_found_objects_are_added_replaced_and_removed_under_ids_that_stay(
    robot: Robot, start: Starter, gaussians, shape
):
    start.active(collision__shape=shape)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    for k in range(VIEWS):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / VIEWS)), camera_from_map(k / VIEWS))
    assert watch.outcome(VIEWS) == (VIEWS, {})
    scenes = robot.collect(msg.PlanningScene, "/feature_map/collision_objects", LATCHED)
    applied: list = []

    def apply(request, response):
        applied.append(request.scene)
        response.success = True
        return response

    service = robot.node.create_service(srv.ApplyPlanningScene, "/apply_planning_scene", apply)
    with FeatureMapClient() as client:
        red, blue = client.ask("red").objects[0], client.ask("blue").objects[0]
        wait_until(lambda: scenes and f"object_{blue.id}" in names(scenes[-1]), what="both objects")
        scene = scenes[-1]
        assert scene.is_diff
        assert scene.robot_state.is_diff
        objects = {entry.id: entry for entry in scene.world.collision_objects}
        assert {"support_plane", f"object_{red.id}", f"object_{blue.id}"} <= set(objects)
        assert all(entry.operation == msg.CollisionObject.ADD for entry in objects.values())
        assert all(entry.header.frame_id == "map" for entry in objects.values())
        assert objects[f"object_{red.id}"].type.key == "red"
        low, high = extent(objects[f"object_{red.id}"])
        np.testing.assert_allclose((low + high) / 2, BLOCKS["red"][0], atol=0.01)
        np.testing.assert_allclose(high - low, BLOCKS["red"][1], atol=0.02)
        table = objects["support_plane"]
        np.testing.assert_allclose(np.sort(table.primitives[0].dimensions)[1:], np.sort(TABLE[1])[1:], atol=0.08)
        client.ask("red", threshold=0.999)  # finds nothing now
        wait_until(lambda: operations(scenes[-1]).get(f"object_{red.id}") == msg.CollisionObject.REMOVE, what="its end")
        assert operations(scenes[-1])[f"object_{blue.id}"] == msg.CollisionObject.ADD
        response = robot.call(Trigger, "/feature_map/apply_planning_scene", Trigger.Request())
        assert response.success, response.message
        assert names(applied[-1]) >= {"support_plane", f"object_{blue.id}"}
        assert f"object_{red.id}" not in names(applied[-1])
        assert client.change_state("deactivate")
        wait_until(lambda: set(operations(scenes[-1]).values()) == {msg.CollisionObject.REMOVE}, what="all to go")
    robot.node.destroy_service(service)


def names(scene) -> set[str]:
    return {entry.id for entry in scene.world.collision_objects}


def operations(scene) -> dict[str, bytes]:
    return {entry.id: entry.operation for entry in scene.world.collision_objects}


def extent(entry) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of a collision object that stands upright, in the map frame."""
    if entry.meshes:
        vertices = np.array([[v.x, v.y, v.z] for v in entry.meshes[0].vertices])
        assert len(entry.meshes[0].triangles) <= 64
        return vertices.min(axis=0), vertices.max(axis=0)
    place, turn = entry.pose.position, entry.pose.orientation
    w, x, y, z = turn.w, turn.x, turn.y, turn.z
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    half = np.abs(rotation) @ np.array(entry.primitives[0].dimensions) / 2
    center = np.array([place.x, place.y, place.z])
    return center - half, center + half
