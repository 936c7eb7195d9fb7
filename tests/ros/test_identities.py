"""A field of identity codes on the robot: clicks answer with the object's id and extent, clouds carry its label."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2
from sensor_msgs_py import point_cloud2

from feature_gs_ros.backprojection.field import Provenance
from feature_gs_ros.identity.codes import make_codes
from feature_gs_ros.identity.encoding import Annotation, class_names, encode_identities
from feature_gs_ros.io.messages.point_cloud import FIELDS
from feature_gs_ros.rasterizer import view
from feature_gs_ros.ros.convert.plain import Outcome
from ros.harness import LATCHED, Starter, Watch, wait_until
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


def top(name: str) -> tuple[float, float, float]:
    (x, y, z), (_, _, height), _ = BLOCKS[name]
    return x, y, z + height / 2


@pytest.mark.usefixtures("node")
def test_a_click_answers_with_the_objects_id_name_and_extent(client):
    answer = client.click([top("blue")])
    assert answer, answer.message
    assert "'blue box' (object 12" in answer.message
    (found,) = answer.objects
    assert (found.id, found.label) == ("12", "blue box")
    assert 0.5 < found.score <= 1
    np.testing.assert_allclose(found.center, BLOCKS["blue"][0], atol=0.012)
    np.testing.assert_allclose(sorted(found.size), sorted(BLOCKS["blue"][1]), atol=0.02)
    assert tuple(answer.cloud) == (*FIELDS, "label")
    assert len(answer.cloud["x"]) > 100
    assert (answer.cloud["label"] == 12).all()
    center, extent = (np.array(values) for values in BLOCKS["blue"][:2])
    points = np.stack([answer.cloud[axis] for axis in "xyz"], axis=1)
    assert (np.abs(points - center) <= extent / 2 + 0.02).mean() > 0.95


@pytest.mark.usefixtures("node")
def test_several_clicks_give_several_objects_without_those_at_negatives(client):
    answer = client.click([top("red"), top("green"), top("red")], [top("green")])
    assert [found.id for found in answer.objects] == ["7"]
    answer = client.click([top("red"), top("green")])
    assert [found.id for found in answer.objects] == ["7", "3"]
    assert set(answer.cloud["label"]) == {7.0, 3.0}


@pytest.mark.usefixtures("node")
def test_background_and_nothing_are_not_found(client):
    for place, reason in (((0.25, 0.2, 0.0), "background"), ((3.0, 3.0, 3.0), "nothing of the map")):
        answer = client.click([place])
        assert answer.outcome is Outcome.NOT_FOUND
        assert reason in answer.message
        assert not answer.objects
        assert len(answer.cloud.get("x", ())) == 0


@pytest.mark.usefixtures("node")
def test_the_whole_map_carries_the_labels(robot, gaussians):
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    labels = point_cloud2.read_points(clouds[-1])["label"]
    assert len(labels) == len(gaussians)
    assert set(np.unique(labels)) == {0.0, *map(float, IDS.values())}


@pytest.mark.usefixtures("node")
def test_an_object_is_asked_for_by_its_name(client):
    answer = client.ask("green box")
    assert answer
    np.testing.assert_allclose(answer.objects[0].center[:2], BLOCKS["green"][0][:2], atol=0.012)


@pytest.mark.usefixtures("node")
def test_a_moved_object_is_clicked_where_it_is_shown_and_a_deleted_one_not_at_all(robot, client):
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    by = np.array([0.0, 0.1, 0.05])
    client.move("green box", by)
    (found,) = client.click([np.array(top("green")) + by]).objects
    assert found.id == "3"
    np.testing.assert_allclose(found.center, np.array(BLOCKS["green"][0]) + by, atol=0.015)
    before, width = len(client.click([top("blue")]).cloud["x"]), clouds[-1].width
    deleted = client.delete("blue box")
    wait_until(lambda: clouds[-1].width == width - deleted.gaussians, what="the edited map")
    left = client.click([top("blue")])
    assert len(left.cloud.get("x", ())) < before / 10  # a rim of Gaussians that the words didn't find
    assert before > 100
    client.undo()
    assert client.undo().undo == ""


def test_live_images_are_counted_as_no_use(robot, node, gaussians):
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    robot.publish_posed(take_picture(gaussians, camera_from_map(0)), camera_from_map(0))
    used, left_out = watch.outcome(1)
    assert used == 0
    assert "identities come from masks" in next(iter(left_out))
    assert node.running
