"""Starts feature_map, and feature_extractor where asked to, and brings them to active."""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare("feature_gs_ros"), "config", "feature_map.yaml"])
SAVE_PATIENCE = "60"  # s after Ctrl-C in which a large field may be saved

# Arguments that are parameters of the same name; what is left empty keeps the config file's value.
PARAMETERS = {
    "map": "Path of the pretrained splat map.",
    "alignment": "Path of a file with splat_from_map, where splat and robot have different frames.",
    "map_frame": "tf frame that answers are given in.",
    "extractor": "Name of the 2D teacher: imagenet, color, ...",
    "extractor_options": "Options of the teacher, as a YAML mapping.",
    "data_dir": "Folder below which services read and write files.",
    "load_on_activate": "Go on with the learned field of an earlier run: true or false.",
    "save_on_deactivate": "Save the learned field at the end: true or false.",
}
OTHERS = {
    "image": ("image", "Topic of the camera's images."),
    "camera_info": ("camera_info", "Topic of the camera's calibration."),
    "input": ("raw", "raw, or compressed: then <image>/compressed is subscribed."),
    "mask_topic": ("", "Topic of masks of the pixels that don't count, e.g. the robot's own arm."),
    "remote_teacher": ("false", "Run the teacher in a node of its own, feature_extractor: true or false."),
    "config": (CONFIG, "File with feature_map's parameters, where they aren't arguments."),
    "namespace": ("", "Namespace of the nodes."),
    "use_sim_time": ("false", "Take the time from /clock: true or false."),
    "autostart": ("true", "Bring the nodes to active: true or false."),
    "respawn": ("true", "Start a node again that ended by itself: true or false."),
    "log_level": ("info", "debug, info, warn or error."),
}


def generate_launch_description() -> LaunchDescription:
    arguments = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in PARAMETERS.items()]
    arguments += [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, (default, text) in OTHERS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[Any]:
    """The nodes with the arguments' values."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *OTHERS)}
    parameters = {name: typed(given[name]) for name in PARAMETERS if given[name]}
    remote = given["remote_teacher"] == "true"
    parameters["camera.input"] = "grid" if remote else given["input"]
    parameters["camera.mask_topic"] = given["mask_topic"]
    for name in ("use_sim_time", "autostart"):
        parameters[name] = given[name] == "true"
    topics = [("camera_info", given["camera_info"])]
    grids = "feature_extractor/features" if remote else given["image"]
    nodes = [node("feature_map", given, [given["config"], parameters], [*topics, ("image", grids)])]
    if remote:
        teacher = {name: parameters[name] for name in ("extractor", "extractor_options") if name in parameters}
        teacher |= {"input": given["input"]}
        teacher |= {name: parameters[name] for name in ("use_sim_time", "autostart")}
        nodes.append(node("feature_extractor", given, [teacher], [*topics, ("image", given["image"])]))
    return nodes


def node(name: str, given: dict[str, str], parameters: list[Any], remappings: list[Any]) -> Node:
    """A node that gets time to save, and is started again where it ends by itself."""
    return Node(
        package="feature_gs_ros",
        executable=name,
        name=name,
        namespace=given["namespace"],
        parameters=parameters,
        remappings=remappings,
        output="screen",
        respawn=given["respawn"] == "true",
        respawn_delay=2.0,
        sigterm_timeout=SAVE_PATIENCE,
        sigkill_timeout=SAVE_PATIENCE,
        arguments=["--ros-args", "--log-level", f"{name}:={given['log_level']}"],
    )


def typed(text: str) -> bool | str:
    """Launch arguments are words; two of them mean a truth value."""
    return {"true": True, "false": False}.get(text, text)
