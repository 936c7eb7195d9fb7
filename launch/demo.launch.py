"""Plays a recording as a camera would, the synthetic tabletop by default, and lets feature_map learn from it."""

import os
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from feature_gs_ros.ros.runtime.launch_arguments import truth

SHARE = FindPackageShare("feature_gs_ros")
SCENE = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros") / "feature_gs_ros" / "scene"

ARGUMENTS = {
    "scene": (str(SCENE), "Folder of the synthetic tabletop; created if missing (takes a minute)."),
    "bag": ("", "Recording to play; empty: the scene's."),
    "map": ("", "Splat map; empty: the scene's."),
    "alignment": ("", "File with splat_from_map; empty: the scene's, if the map is the scene's."),
    "image": ("/camera/color/image_raw", "Topic of the recording's images, without /compressed."),
    "camera_info": ("/camera/color/camera_info", "Topic of their calibration."),
    "input": ("compressed", "raw or compressed, as the recording has them."),
    "map_frame": ("map", "tf frame of the recording that answers are given in."),
    "extractor": ("imagenet", "Name of the 2D extractor."),
    "data_dir": ("", "Folder below which services read and write files; empty: feature_map's default."),
    "namespace": ("", "Namespace of the nodes; the recording's topics and tf are not renamed."),
    "rate": ("1.0", "Speed: 1 is real time."),
    "loop": ("true", "Restart at the end: true or false."),
    "rviz": ("false", "Start RViz: true or false."),
}


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """The nodes, after creating the scene if it is needed and missing."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    scene = Path(given["scene"]).expanduser()
    needs_scene = not (given["bag"] and given["map"])
    if needs_scene and not (scene / "map.ply").is_file():
        program = "import sys; from feature_gs_ros.cli import main; sys.exit(main(sys.argv[1:]))"
        make = ExecuteProcess(cmd=["python3", "-c", program, "synth", str(scene)], output="screen")

        def go_on(event: ProcessExited, _: LaunchContext) -> list[Any]:
            if event.returncode != 0:
                return [LogInfo(msg=f"the scene '{scene}' could not be made"), Shutdown(reason="no scene")]
            return nodes(given, scene)

        return [make, RegisterEventHandler(OnProcessExit(target_action=make, on_exit=go_on))]
    return nodes(given, scene)


def nodes(given: dict[str, str], scene: Path) -> list[Any]:
    """bag_player, feature_map and RViz."""
    alignment = given["alignment"] or ("" if given["map"] else str(scene / "alignment.yaml"))
    player = {
        "bag": given["bag"] or str(scene / "stream"),
        "rate": float(given["rate"]),
        "loop": truth("loop", given["loop"]),
        "delay": 3.0,
    }
    passed = {
        name: given[name]
        for name in ("image", "camera_info", "input", "map_frame", "extractor", "data_dir", "namespace")
    }
    passed |= {"map": given["map"] or str(scene / "map.ply"), "alignment": alignment, "respawn": "false"}
    launch_file = PathJoinSubstitution([SHARE, "launch", "feature_gs.launch.py"])
    found = [
        IncludeLaunchDescription(PythonLaunchDescriptionSource(launch_file), launch_arguments=passed.items()),
        Node(
            package="feature_gs_ros",
            executable="bag_player",
            name="bag_player",
            namespace=given["namespace"],
            parameters=[player],
            output="screen",
        ),
    ]
    if truth("rviz", given["rviz"]):
        view = PathJoinSubstitution([SHARE, "rviz", "feature_gs.rviz"])
        found.append(Node(package="rviz2", executable="rviz2", namespace=given["namespace"], arguments=["-d", view]))
    return found
