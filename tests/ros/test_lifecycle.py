"""Lifecycle, files and ends: what fails can be tried again, what is done is undone, nothing is lost or left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.msg import Answer, Status
from feature_gs_ros.pictures import save_png
from feature_gs_ros.srv import Load, QueryText, Save
from ros.harness import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, TIMEOUT, Robot, Starter, Watch, wait_until
from ros.scene import CAMERA, camera_from_map, take_picture, transform_of


def teach(robot: Robot, gaussians, views: int = 3) -> None:
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    for k in range(views):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / views)), camera_from_map(k / views))
    assert watch.outcome(views) == (views, {})


def save(robot: Robot, path: str = "") -> Save.Response:
    return robot.call(Save, "/feature_map/save", Save.Request(path=path))


def load(robot: Robot, path: str = "") -> Load.Response:
    return robot.call(Load, "/feature_map/load", Load.Request(path=path))


def views_of(robot: Robot) -> int:
    return robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red")).answer.views


def test_each_step_can_be_tried_again_and_is_undone(robot, start: Starter, gaussians, tmp_path):
    """Also: services answer *unavailable* while the node isn't active."""
    late = tmp_path / "late.ply"
    node = start.feature_map(map=str(late))
    assert not robot.change_state(CONFIGURE)
    assert robot.state() == "unconfigured"
    assert "there is no file" in node.log.read_text()
    late.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999\n")
    assert robot.change_state(CONFIGURE)
    answer = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red")).answer
    assert answer.state == Answer.UNAVAILABLE
    assert "not active" in answer.message
    assert not save(robot).success
    assert not robot.change_state(ACTIVATE)
    assert robot.state() == "inactive"
    assert "late.ply" in node.log.read_text()
    assert robot.images.get_subscription_count() == 0
    save_ply(gaussians, late)
    for _ in range(2):
        assert robot.change_state(ACTIVATE)
        teach(robot, gaussians)
        assert robot.change_state(DEACTIVATE)
        wait_until(lambda: robot.images.get_subscription_count() == 0, what="the subscriptions to go")
    assert "3 views" in node.log.read_text()
    assert robot.change_state(CLEANUP)
    wait_until(lambda: not robot.node.count_publishers("/feature_map/map_cloud"), what="the publishers to go")
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
    assert "Traceback" not in node.log.read_text()
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("program", "settings"), [("feature_map", {}), ("feature_extractor", {"map": "", "extractor": "color"})]
)
def test_a_transition_that_the_state_does_not_have_is_refused_and_the_node_lives(robot, start, program, settings):
    path = f"/{program}"
    node = start.program(program, **(start.defaults if program == "feature_map" else settings))

    def refused(number: int, name: str, state: str, label: str = "") -> None:
        request = ChangeState.Request(transition=Transition(id=number, label=label))
        assert not robot.call(ChangeState, f"{path}/change_state", request).success
        assert robot.state(path) == state
        assert f"the state '{state}' has no transition {name}" in node.log.read_text()

    refused(ACTIVATE, "3 ('activate')", "unconfigured")
    refused(Transition.TRANSITION_ACTIVE_SHUTDOWN, "7 ('shutdown')", "unconfigured")
    refused(99, "99 ('unknown')", "unconfigured")
    refused(CONFIGURE, "'activate'", "unconfigured", label="activate")
    assert robot.change_state(CONFIGURE, path)
    refused(CONFIGURE, "1 ('configure')", "inactive")
    refused(Transition.TRANSITION_ACTIVE_SHUTDOWN, "7 ('shutdown')", "inactive")
    activation = ChangeState.Request(transition=Transition(id=99, label="activate"))
    assert robot.call(ChangeState, f"{path}/change_state", activation).success
    refused(ACTIVATE, "3 ('activate')", "active")
    refused(CLEANUP, "2 ('cleanup')", "active")
    assert robot.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN, path)
    refused(ACTIVATE, "3 ('activate')", "finalized")
    assert node.log.read_text().count(": rejected") == 9
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"map": ""}, "give a splat map"),
        ({"extractor": "none such"}, "choose"),
        ({"extractor_options": "[1, 2]"}, "expected a mapping"),
        ({"map_frame": ""}, "map_frame is empty"),
        ({"alignment": "/no/such/file"}, "leave one out"),
        ({"splat_from_map__rotation_xyzw": [0.0, 0.0, 0.0, 2.0]}, "length 2"),
        ({"splat_from_map__rotation_wxyz": [0.0, 1.0, 0.0, 0.0]}, "leave one out"),
        ({"backend": "abacus"}, "choose auto, cpu, cuda"),
        ({"cameras": ["a", "a"]}, "twice"),
        ({"camera__input": "video"}, "choose raw, compressed, grid"),
        ({"camera__mask_image": "/no/such/mask.png"}, "no file"),
        ({"field": "../outside.safetensors"}, "leads out of data_dir"),
        ({"field": "affordances.safetensors"}, "of the parameter affordances; choose another name"),
        ({"field": "a", "affordances": "./a.edits"}, "of the parameter affordances; choose another name"),
        ({"data_dir": "/proc/version/below"}, "data_dir"),
        ({"image_reliability": "perhaps"}, "choose best_effort, reliable"),
    ],
)
def test_settings_are_refused_with_the_mend(shared_settings, parameters, complaint):
    assert complaint in shared_settings(parameters)


@pytest.fixture(scope="module")
def shared_settings(start_once: Starter):
    """Reads settings in one process: a node's start takes seconds, and its own step is tested above."""
    import rclpy

    from feature_gs_ros.core.errors import FeatureGsError
    from feature_gs_ros.ros.runtime.parameter_table import FEATURE_MAP, camera_parameters
    from feature_gs_ros.ros.runtime.parameters import declare
    from feature_gs_ros.ros.runtime.settings import Settings

    context = rclpy.Context()
    rclpy.init(context=context)

    def complaint(parameters: dict[str, object]) -> str:
        given = {**start_once.defaults, **{key.replace("__", "."): value for key, value in parameters.items()}}
        overrides = [rclpy.Parameter(key, value=value) for key, value in given.items()]
        node = rclpy.create_node("settings", context=context, parameter_overrides=overrides)
        try:
            declare(node, FEATURE_MAP)
            for camera in set(node.get_parameter("cameras").value):
                declare(node, camera_parameters(camera))
            Settings(node)
        except FeatureGsError as error:
            return str(error)
        finally:
            node.destroy_node()
        return ""

    yield complaint
    rclpy.shutdown(context=context)


def test_a_parameter_out_of_range_ends_the_program_with_one_line(start: Starter):
    node = start.feature_map(queue_size=0)
    assert node.process.wait(TIMEOUT) == 2
    lines = [line for line in node.log.read_text().splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Min: 1, Max: 1000" in lines[0]
    assert "Traceback" not in node.log.read_text()


def test_degrees_where_radians_are_meant_end_the_program_with_the_conversion(start: Starter):
    node = start.feature_map(keyframe__rotation=2.0)
    assert node.process.wait(TIMEOUT) == 2
    assert "2 degrees become 0.035" in node.log.read_text()


def test_a_camera_that_is_named_twice_is_refused_on_configuration(robot, start: Starter):
    node = start.feature_map(cameras=["left", "left"])
    assert not robot.change_state(CONFIGURE)
    assert "names a camera twice: left, left" in node.log.read_text()


def test_without_a_camera_the_program_ends_with_one_line(start: Starter):
    node = start.feature_map(cameras=[])
    assert node.process.wait(TIMEOUT) == 2
    assert "error: parameter cameras is empty; it must hold at least one: Names of the cameras" in node.log.read_text()
    assert "Traceback" not in node.log.read_text()


def test_files_stay_below_data_dir_and_a_failed_load_keeps_the_field(robot, start: Starter, gaussians, tmp_path):
    start.active()
    teach(robot, gaussians)
    response = save(robot, "rooms/kitchen.safetensors")
    assert response.success
    assert Path(response.message) == start.data / "rooms" / "kitchen.safetensors"
    (start.data / "link").symlink_to(tmp_path)
    library = start.data / "affordances.safetensors"
    library.write_bytes(b"a library of marked images")
    assert "of the parameter affordances" in save(robot, "rooms/../affordances.safetensors").message
    assert library.read_bytes() == b"a library of marked images"
    for path in ("../out", "/etc/passwd", "a/../../out", "link/out", "rooms"):
        assert not save(robot, path).success, path
    assert not (tmp_path / "out").exists()
    for path in ("../out", "link/out", "nothing.safetensors", "rooms"):
        assert not load(robot, path).success, path
    (start.data / "damaged").write_bytes((start.data / "rooms/kitchen.safetensors").read_bytes()[:1000])
    assert load(robot, "damaged").code == "field.unreadable"
    field = FeatureField.load(start.data / "rooms/kitchen.safetensors")
    other = GaussianMap.from_tensors(
        gaussians.means + 1, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh
    )
    _with_provenance(field, map_checksum=other.checksum).save(start.data / "other_map")
    assert "checksum" in load(robot, "other_map").message
    _with_extractor(field, "imagenet").save(start.data / "other_extractor")
    assert "extractor" in load(robot, "other_extractor").message
    assert views_of(robot) == 3
    assert robot.call(Trigger, "/feature_map/reset", Trigger.Request()).message == "3 views forgotten"
    answer = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red")).answer
    assert (answer.state, answer.views, answer.coverage) == (Answer.NOT_OBSERVED, 0, 0.0)
    assert load(robot, "rooms/kitchen.safetensors").success
    assert views_of(robot) == 3
    assert robot.call(Trigger, "/feature_map/republish", Trigger.Request()).success


def _with_provenance(field: FeatureField, **changes: object) -> FeatureField:
    from dataclasses import replace

    return replace(field, provenance=replace(field.provenance, **changes))


def _with_extractor(field: FeatureField, name: str) -> FeatureField:
    from dataclasses import replace

    return replace(field, extractor=replace(field.extractor, name=name))


def test_the_saved_fields_extractor_needs_a_saved_field(robot, start: Starter):
    node = start.feature_map(extractor="saved", extractor_options="{}", load_on_activate=True)
    assert robot.change_state(CONFIGURE)
    assert not robot.change_state(ACTIVATE)
    assert robot.state() == "inactive"
    assert "name an extractor" in node.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_if_asked_to_and_leaves_no_process(robot, start: Starter, gaussians, number):
    node = start.active(save_on_deactivate=True, load_on_activate=True)
    teach(robot, gaussians)
    node.process.send_signal(number)
    node.process.send_signal(number)  # Ctrl-C comes twice under launch
    assert node.process.wait(TIMEOUT) == 0
    assert "Traceback" not in node.log.read_text()
    assert FeatureField.load(start.data / "field.safetensors").provenance.frames
    assert not [child for child in _children(os.getpid()) if child != os.getpid() and _is_zombie(child)]
    if number == signal.SIGINT:
        start.active(save_on_deactivate=True, load_on_activate=True)
        assert views_of(robot) == 3


def test_no_views_do_not_replace_a_field_that_was_saved(robot, start: Starter, gaussians):
    node = start.active(save_on_deactivate=True)
    teach(robot, gaussians)
    assert node.stop() == 0
    target = start.data / "field.safetensors"
    learned = target.read_bytes()
    node = start.active(save_on_deactivate=True)
    assert views_of(robot) == 0
    assert node.stop() == 0
    assert target.read_bytes() == learned
    assert f"no views to save: '{target}' stays as it is" in node.log.read_text()


@pytest.mark.parametrize("program", ["feature_map", "feature_extractor", "bag_player"])
def test_ctrl_c_while_a_program_is_still_starting_ends_it_without_a_traceback(start: Starter, program):
    start.fresh = True
    node = start.program(program)
    maps = Path(f"/proc/{node.process.pid}/maps")
    wait_until(lambda: "numpy" in maps.read_text(), what="the first imports")
    assert node.stop() == 130
    assert not node.log.read_text()


CLASSES = 250  # so that the file takes a while to write


def test_kill_9_during_a_save_leaves_the_old_file_whole_and_a_new_node_goes_on_from_it(
    robot, start: Starter, gaussians, tmp_path
):
    stamps = [robot.now() + k for k in range(4)]
    for stamp in stamps:
        save_png(
            np.arange(CAMERA.width * CAMERA.height, dtype=np.uint8).reshape(120, 160) % CLASSES,
            tmp_path / f"{stamp}.png",
        )
    (tmp_path / "labels.yaml").write_text("\n".join(f"{k}: thing {k}" for k in range(CLASSES)))
    extractor = {
        "extractor": "labels",
        "extractor_options": f"{{masks: {tmp_path}, labels: {tmp_path / 'labels.yaml'}}}",
        "load_on_activate": True,
    }
    node = start.active(**extractor)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(stamps[0])
    for k, stamp in enumerate(stamps):
        robot.publish_tf(stamp, *transform_of(camera_from_map(k / 4)))
        robot.publish_image(take_picture(gaussians, camera_from_map(k / 4)), stamp)
        if k == 2:
            assert watch.outcome(3) == (3, {})
            assert save(robot).success
    assert watch.outcome(1) == (1, {})
    target = start.data / "field.safetensors"
    written = target.stat()
    client = robot.node.create_client(Save, "/feature_map/save")
    assert client.wait_for_service(60)
    client.call_async(Save.Request())
    end = time.monotonic() + 10
    while time.monotonic() < end and target.stat() == written and not list(start.data.glob(".*.part")):
        pass  # until writing has begun, wherever it is done
    node.process.kill()
    node.process.wait()
    assert FeatureField.load(target).provenance.frames == tuple(str(stamp) for stamp in stamps[:3])
    statuses = robot.collect(Status, "/feature_map/status", 10)
    start.feature_map(autostart=True, **extractor)
    wait_until(lambda: statuses and statuses[-1].views == 3, what="the loaded views")
    assert statuses[-1].frames_seen == 0
    assert not list(start.data.glob(".*.part")), "what the killed one left is swept up"


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _is_zombie(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
