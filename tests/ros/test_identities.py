"""A field of identity codes on the robot: clicks answer with the object's id and extent, clouds carry its label."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import Point
from sensor_msgs.msg import PointCloud2
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header

from feature_gs_ros.backprojection.field import Provenance
from feature_gs_ros.identity.codes import make_codes
from feature_gs_ros.identity.encoding import Annotation, class_names, encode_identities
from feature_gs_ros.io.messages.point_cloud import FIELDS
from feature_gs_ros.msg import Answer
from feature_gs_ros.rasterizer import view
from feature_gs_ros.srv import Edit, QueryPoints, QueryText
from ros.harness import LATCHED, Robot, Starter, Watch, wait_until
from ros.scene import BLOCKS, CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture

IDS = {"red": 7, "green": 3, "blue": 12}
VIEWS = 8


@pytest.fixture(scope="module")
def node(start_once: Starter, gaussians):
    """Begins with a field that was made of annotated views elsewhere."""
    names = class_names({value: f"{name} box" for name, value in IDS.items()})
    provenance = Provenance(gaussians.checksum, splat_from_map=SPLAT_FROM_MAP)
    book = make_codes("orthogonal", len(names), None)
    annotations = [annotation(gaussians, k) for k in range(VIEWS)]
    field = encode_identities(gaussians, annotations, names, book, provenance=provenance).field
    start_once.data.mkdir()
    field.save(start_once.data / "field.safetensors")
    node = start_once.active(extractor="saved", extractor_options="{}", load_on_activate=True)
    yield node
    assert node.running


def annotation(gaussians, k: int) -> Annotation:
    """A label image of the blocks, by their colours."""
    pose = camera_from_map(k / VIEWS)
    picture = take_picture(gaussians, pose).astype(int)
    labels = np.zeros(picture.shape[:2], np.uint8)
    for name, (_, _, color) in BLOCKS.items():
        labels[np.abs(picture - np.array(color)).max(axis=2) < 40] = IDS[name]
    return Annotation(str(k), view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose)), labels)


def click(robot: Robot, points, negatives=()) -> QueryPoints.Response:
    request = QueryPoints.Request(header=Header(frame_id="map"))
    request.points, request.negatives = (
        [Point(**dict(zip("xyz", map(float, point), strict=True))) for point in given] for given in (points, negatives)
    )
    return robot.call(QueryPoints, "/feature_map/query_points", request)


def top(name: str) -> tuple[float, float, float]:
    (x, y, z), (_, _, height), _ = BLOCKS[name]
    return x, y, z + height / 2


@pytest.mark.usefixtures("node")
def test_a_click_answers_with_the_objects_id_name_and_extent(robot):
    response = click(robot, [top("blue")])
    assert response.answer.state == Answer.FOUND, response.answer.message
    assert "'blue box' (object 12" in response.answer.message
    (detection,) = response.detections.detections
    assert (detection.id, detection.results[0].hypothesis.class_id) == ("12", "blue box")
    assert 0.5 < detection.results[0].hypothesis.score <= 1
    place, size = detection.bbox.center.position, detection.bbox.size
    np.testing.assert_allclose([place.x, place.y, place.z], BLOCKS["blue"][0], atol=0.012)
    np.testing.assert_allclose(sorted([size.x, size.y, size.z]), sorted(BLOCKS["blue"][1]), atol=0.02)
    assert tuple(field.name for field in response.cloud.fields) == (*FIELDS, "label")
    cloud = point_cloud2.read_points(response.cloud)
    assert len(cloud) > 100
    assert (cloud["label"] == 12).all()
    center, extent = (np.array(values) for values in BLOCKS["blue"][:2])
    points = np.stack([cloud[axis] for axis in "xyz"], axis=1)
    assert (np.abs(points - center) <= extent / 2 + 0.02).mean() > 0.95


@pytest.mark.usefixtures("node")
def test_several_clicks_give_several_objects_without_those_at_negatives(robot):
    response = click(robot, [top("red"), top("green"), top("red")], [top("green")])
    assert [detection.id for detection in response.detections.detections] == ["7"]
    response = click(robot, [top("red"), top("green")])
    assert [detection.id for detection in response.detections.detections] == ["7", "3"]
    assert set(point_cloud2.read_points(response.cloud)["label"]) == {7.0, 3.0}


@pytest.mark.usefixtures("node")
def test_background_and_nothing_are_not_found(robot):
    for place, reason in (((0.25, 0.2, 0.0), "background"), ((3.0, 3.0, 3.0), "nothing of the map")):
        response = click(robot, [place])
        assert response.answer.state == Answer.NOT_FOUND
        assert reason in response.answer.message
        assert not response.detections.detections
        assert response.cloud.width == 0


@pytest.mark.usefixtures("node")
def test_the_whole_map_carries_the_labels(robot, gaussians):
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    labels = point_cloud2.read_points(clouds[-1])["label"]
    assert len(labels) == len(gaussians)
    assert set(np.unique(labels)) == {0.0, *map(float, IDS.values())}


@pytest.mark.usefixtures("node")
def test_an_object_is_asked_for_by_its_name(robot):
    response = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="green box"))
    assert response.answer.state == Answer.FOUND
    place = response.detections.detections[0].bbox.center.position
    np.testing.assert_allclose([place.x, place.y], BLOCKS["green"][0][:2], atol=0.012)


@pytest.mark.usefixtures("node")
def test_a_moved_object_is_clicked_where_it_is_shown_and_a_deleted_one_not_at_all(robot):
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    by = np.array([0.0, 0.1, 0.05])
    change = Edit.Request(operation=Edit.Request.MOVE, text="green box", scale=1.0)
    change.moved.rotation.w = 1.0
    change.moved.translation.x, change.moved.translation.y, change.moved.translation.z = by
    assert robot.call(Edit, "/feature_map/edit", change).answer.state == Answer.FOUND
    response = click(robot, [np.array(top("green")) + by])
    (detection,) = response.detections.detections
    assert detection.id == "3"
    place = detection.bbox.center.position
    np.testing.assert_allclose([place.x, place.y, place.z], np.array(BLOCKS["green"][0]) + by, atol=0.015)
    change = Edit.Request(operation=Edit.Request.DELETE, text="blue box", scale=1.0)
    before, width = len(point_cloud2.read_points(click(robot, [top("blue")]).cloud)), clouds[-1].width
    deleted = robot.call(Edit, "/feature_map/edit", change)
    wait_until(lambda: clouds[-1].width == width - deleted.gaussians, what="the edited map")
    left = click(robot, [top("blue")])
    assert len(point_cloud2.read_points(left.cloud)) < before / 10  # a rim of Gaussians that the words didn't find
    assert before > 100
    for _ in range(2):
        undone = robot.call(Edit, "/feature_map/edit", Edit.Request(operation=Edit.Request.UNDO))
    assert undone.undo == ""


def test_live_images_are_counted_as_no_use(robot, node, gaussians):
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    robot.publish_posed(take_picture(gaussians, camera_from_map(0)), camera_from_map(0))
    used, left_out = watch.outcome(1)
    assert used == 0
    assert "identities come from masks" in next(iter(left_out))
    assert node.running
