"""The launch files, as they are installed, in processes of their own; and the files that go with them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from sensor_msgs.msg import PointCloud2

from feature_gs_ros.msg import Status
from feature_gs_ros.synthetic.bag import BagWriter
from ros.harness import LATCHED, Robot, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture
from ros.test_descriptions import parameters_of

SHARE = Path(get_package_share_directory("feature_gs_ros"))
STARTED = 240.0  # s: new interpreters import, two or three beside each other
RVIZ_TYPES = {
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
}


def hear_ctrl_c() -> None:
    """Tests that run in the background of a script ignore it, and what they start would, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Launched:
    """``ros2 launch`` in a process group of its own."""

    def __init__(self, log: Path, file: str, **arguments: object):
        """A file of the package by its name, or any by its whole path."""
        self.log = log
        package = [] if Path(file).is_absolute() else ["feature_gs_ros"]
        words = [f"{name}:={value}" for name, value in arguments.items()]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                ["ros2", "launch", *package, file, *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(os.environ),
                preexec_fn=hear_ctrl_c,
            )

    def nodes(self) -> list[int]:
        """Processes of the group that run a program of the package."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                same = os.getpgid(int(folder.name)) == self.process.pid
                words = folder.joinpath("cmdline").read_bytes().split(b"\0")
            except (OSError, ProcessLookupError):
                continue
            if same and any(word.startswith(b"__node:=") for word in words):
                found.append(int(folder.name))
        return found

    def end(self) -> None:
        """Ctrl-C at the terminal: the whole group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(STARTED) is not None
        assert not self.nodes()


@pytest.fixture
def launch(tmp_path: Path):
    started: list[Launched] = []

    def begin(file: str, **arguments: object) -> Launched:
        started.append(Launched(tmp_path / f"{Path(file).name}.log", file, **arguments))
        return started[-1]

    yield begin
    for launched in started:
        if launched.process.poll() is None:
            launched.end()
        print(launched.log.read_text())


@pytest.fixture
def alignment(tmp_path: Path) -> Path:
    path = tmp_path / "alignment.yaml"
    content = {
        "scale": SPLAT_FROM_MAP.scale,
        "rotation_wxyz": SPLAT_FROM_MAP.quat_wxyz.tolist(),
        "translation": SPLAT_FROM_MAP.translation.tolist(),
    }
    path.write_text(yaml.safe_dump({"splat_from_map": content}))
    return path


@pytest.fixture
def reliable(tmp_path: Path) -> Path:
    """A config file with which no image is lost on the way."""
    path = tmp_path / "reliable.yaml"
    path.write_text("/**/feature_map: {ros__parameters: {image_reliability: reliable, tf_timeout: 20.0}}")
    return path


def test_the_launch_file_brings_up_a_node_that_learns_and_starts_it_again(
    robot: Robot, launch, map_file, alignment, reliable, gaussians, tmp_path
):
    launched = launch(
        "feature_gs.launch.py",
        config=reliable,
        map=map_file,
        alignment=alignment,
        extractor="color",
        data_dir=tmp_path / "data",
        namespace="arm",
        image="/image",
        camera_info="/camera_info",
        save_on_deactivate="True",
        load_on_activate="1",
        log_level="error",
    )
    statuses = robot.collect(Status, "/arm/feature_map/status", 10)
    wait_until(lambda: statuses, STARTED, "the node to be active")
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    robot.publish_info(robot.now())
    for k in range(3):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / 3)), camera_from_map(k / 3))
        time.sleep(0.1)
    wait_until(lambda: statuses[-1].frames_used == 3, what="3 used frames")
    (node,) = launched.nodes()
    os.kill(node, signal.SIGTERM)
    wait_until(lambda: launched.nodes() not in ([], [node]), STARTED, "a new process")
    statuses.clear()
    wait_until(lambda: statuses, STARTED, "the new node to be active")
    assert statuses[-1].views == 3
    launched.end()
    said = launched.log.read_text()
    assert "Traceback" not in said
    assert "map of" not in said, "what is only information"


def test_the_extractor_in_a_node_of_its_own(robot: Robot, launch, map_file, alignment, reliable, gaussians, tmp_path):
    launch(
        "feature_gs.launch.py",
        map=map_file,
        alignment=alignment,
        extractor="color",
        data_dir=tmp_path / "data",
        remote_extractor="True",
        config=reliable,
    )
    statuses = robot.collect(Status, "/feature_map/status", 10)
    wait_until(lambda: statuses and robot.images.get_subscription_count() == 1, STARTED, "both nodes to be active")
    wait_until(lambda: robot.infos.get_subscription_count() == 2)
    robot.publish_info(robot.now())
    wait_until(lambda: robot.node.count_subscribers("/feature_extractor/features") == 1)
    for k in range(3):  # one after the other, as an extractor that is busy takes the newest
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / 3)), camera_from_map(k / 3))
        wait_until(lambda used=k + 1: statuses[-1].frames_used == used, what="a used grid")


CONFIG = """
/**/feature_map:
  ros__parameters:
    map: {map}
    map_frame: world
    extractor: color
    extractor_options: "{{space: rgb}}"
    data_dir: {data}
    autostart: false
    use_sim_time: true
    image_reliability: reliable
    camera:
      image: eye/image
      camera_info: eye/info
      input: compressed
      rectified: true
      mask_topic: arm_mask
/**/feature_extractor:
  ros__parameters:
    min_interval: 0.5
"""


@pytest.mark.parametrize("remote", [False, True])
def test_arguments_count_before_the_config_file_and_it_before_the_defaults(
    robot: Robot, launch, map_file, tmp_path, remote
):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(map=map_file, data=tmp_path / "data"))
    launch(
        "feature_gs.launch.py",
        config=config,
        namespace="arm",
        map_frame="odom",
        camera_info="/wrist/info",
        remote_teacher=str(remote),
    )
    expected = {
        "map": str(map_file),
        "map_frame": "odom",
        "extractor_options": "{space: rgb}",
        "autostart": False,
        "use_sim_time": True,
        "camera.image": "feature_extractor/features" if remote else "eye/image",
        "camera.camera_info": "/wrist/info",
        "camera.input": "grid" if remote else "compressed",
        "camera.mask_topic": "arm_mask",
    }
    assert parameters_of(robot, "/arm/feature_map", expected) == expected
    if not remote:
        return
    expected = {
        "extractor": "color",
        "extractor_options": "{space: rgb}",
        "autostart": False,
        "use_sim_time": True,
        "image": "eye/image",
        "camera_info": "/wrist/info",
        "input": "compressed",
        "rectified": True,
        "image_reliability": "reliable",
        "min_interval": 0.5,
    }
    assert parameters_of(robot, "/arm/feature_extractor", expected) == expected


def test_a_config_file_in_the_home_folder_counts_whole(robot: Robot, launch, map_file, tmp_path, monkeypatch):
    """Without a shell's help: no shell expands the ~ in config:=~/file.yaml."""
    (tmp_path / "config.yaml").write_text(CONFIG.format(map=map_file, data=tmp_path / "data"))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("HOME", str(tmp_path))
    launch("feature_gs.launch.py", config="~/config.yaml", namespace="arm")
    expected = {"map": str(map_file), "map_frame": "world", "autostart": False, "camera.image": "eye/image"}
    assert parameters_of(robot, "/arm/feature_map", expected) == expected


def test_a_config_file_that_is_not_there_ends_the_launch(launch, tmp_path):
    launched = launch("feature_gs.launch.py", config=tmp_path / "none.yaml")
    assert launched.process.wait(STARTED) != 0
    said = launched.log.read_text()
    assert f"there is no file '{tmp_path / 'none.yaml'}'; give one with parameters" in said
    assert "process started" not in said


def test_the_demo_plays_a_recording_to_the_map(robot: Robot, launch, map_file, alignment, gaussians, tmp_path):
    with BagWriter(tmp_path / "bag", np.eye(4), CAMERA) as writer:
        writer.write_static(0)
        for tick in range(40):
            writer.write_pose(tick * 50_000_000, camera_from_map(tick / 40))
            if 0 < tick < 39:
                writer.write_image(tick * 50_000_000, take_picture(gaussians, camera_from_map(tick / 40)))
    launched = launch(
        "demo.launch.py",
        bag=tmp_path / "bag",
        map=map_file,
        alignment=alignment,
        extractor="color",
        loop="yes",
        namespace="arm",
        data_dir=tmp_path / "data",
    )
    statuses = robot.collect(Status, "/arm/feature_map/status", 10)
    wait_until(lambda: statuses and statuses[-1].frames_used >= 10, STARTED, "10 used frames")
    assert statuses[-1].coverage > 0.5
    _check_rviz(robot)
    launched.end()


def test_the_demo_ends_where_its_scene_cannot_be_made(launch, tmp_path):
    (tmp_path / "file").touch()
    launched = launch("demo.launch.py", scene=tmp_path / "file" / "scene")
    launched.process.wait(STARTED)
    said = launched.log.read_text()
    assert "could not be made" in said
    assert "bag_player" not in said


def _check_rviz(robot: Robot) -> None:
    """Every topic that RViz's config shows is published, with its type and a durability that fits."""
    content = yaml.safe_load((SHARE / "rviz" / "feature_gs.rviz").read_text())
    displays = [d for d in content["Visualization Manager"]["Displays"] if "Topic" in d]
    assert len(displays) >= 3
    for display in displays:
        topic = f"/arm/{display['Topic']['Value']}"  # relative, so that RViz in a namespace finds it
        infos = robot.node.get_publishers_info_by_topic(topic)
        assert [info.topic_type for info in infos] == [RVIZ_TYPES[display["Class"]]], topic
        durability = infos[0].qos_profile.durability.name.lower().replace("_", " ")
        assert display["Topic"]["Durability Policy"].lower() == durability, topic
    clouds = robot.collect(PointCloud2, "/arm/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    channels = {display.get("Channel Name") for display in displays} - {None}
    assert channels <= {field.name for field in clouds[0].fields}
    assert content["Visualization Manager"]["Global Options"]["Fixed Frame"] == clouds[0].header.frame_id


@pytest.mark.parametrize(
    ("file", "argument"),
    [("feature_gs.launch.py", "use_sim_time"), ("demo.launch.py", "loop"), ("demo.launch.py", "rviz")],
)
def test_a_truth_value_that_is_none_ends_the_launch(launch, tmp_path, file, argument):
    launched = launch(file, map=tmp_path, bag=tmp_path, **{argument: "perhaps"})
    assert launched.process.wait(STARTED) != 0
    said = launched.log.read_text()
    assert f"launch argument {argument} is 'perhaps'" in said
    assert "process started" not in said


INCLUDES = """
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, LogInfo, RegisterEventHandler
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.event_handlers import OnStateTransition

def generate_launch_description():
    arguments = {arguments!r}
    return LaunchDescription([
        RegisterEventHandler(OnStateTransition(goal_state="active", entities=[LogInfo(msg="it is active now")])),
        IncludeLaunchDescription(PythonLaunchDescriptionSource({file!r}), launch_arguments=arguments.items()),
    ])
"""


def test_transitions_are_events_for_a_launch_file_that_includes_ours_and_tf_may_be_of_a_namespace(
    robot: Robot, launch, map_file, tmp_path
):
    arguments = {"map": str(map_file), "extractor": "color", "data_dir": str(tmp_path), "namespace": "arm"}
    arguments |= {"tf": "tf", "tf_static": "tf_static"}
    file = tmp_path / "robot.launch.py"
    file.write_text(INCLUDES.format(file=str(SHARE / "launch" / "feature_gs.launch.py"), arguments=arguments))
    launched = launch(str(file))
    wait_until(lambda: "it is active now" in launched.log.read_text(), STARTED, "the event")
    wait_until(lambda: robot.node.count_subscribers("/arm/tf") == 1, what="tf of the namespace")
    assert robot.node.count_subscribers("/arm/tf_static") == 1
    assert robot.node.count_subscribers("/tf") == 0
    launched.end()


@pytest.mark.parametrize("file", ["feature_gs.launch.py", "demo.launch.py"])
def test_every_launch_argument_is_described(file):
    shown = subprocess.run(
        ["ros2", "launch", "feature_gs_ros", file, "--show-args"], capture_output=True, text=True, check=True
    ).stdout
    arguments = re.findall(r"^    '(\w+)':\n        (.+)$", shown, re.MULTILINE)
    assert {"map", "image", "camera_info"} <= {name for name, _ in arguments}
    assert all("no description" not in text for _, text in arguments)
