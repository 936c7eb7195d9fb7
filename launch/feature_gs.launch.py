"""Starts feature_map, and feature_extractor where asked to, and brings them to active."""

import re
from pathlib import Path
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from feature_gs_ros.ros.runtime.launch_arguments import truth

SAVE_TIME = "60"  # s after Ctrl-C in which a large field may be saved
DEFAULTS = {"autostart": True}  # where neither an argument nor the config file says otherwise
TRUTHS = ("load_on_activate", "save_on_deactivate", "use_sim_time", "autostart")  # of PARAMETERS
GRIDS = "feature_extractor/features"

# Arguments that are parameters of the same name; what is left empty keeps the config file's value, or its default.
PARAMETERS = {
    "map": "Path of the pretrained splat map.",
    "alignment": "Path of a file with splat_from_map, where splat and robot have different frames.",
    "map_frame": "tf frame that answers are given in.",
    "extractor": "Name of the 2D extractor: imagenet, color, ...",
    "extractor_options": "Options of the extractor, as a YAML mapping.",
    "data_dir": "Folder below which services read and write files.",
    "load_on_activate": "Continue the learned field of an earlier run: true or false.",
    "save_on_deactivate": "Save the learned field at the end: true or false.",
    "use_sim_time": "Use the time of /clock: true or false.",
    "autostart": "Configure and activate the nodes: true or false; empty: as in the config file, else true.",
}
# The same of the camera, the first one where the config file has several.
CAMERA = {
    "image": "Topic of the camera's images; empty: image.",
    "camera_info": "Topic of the camera's calibration; empty: camera_info.",
    "input": "raw, or compressed: then <image>/compressed is subscribed; empty: raw.",
    "mask_topic": "Topic of masks of pixels to ignore, e.g. the robot's own arm.",
}
OTHERS = {
    "remote_extractor": ("false", "Run the extractor in its own node, feature_extractor: true or false."),
    "remote_teacher": ("", "Name of remote_extractor in 0.1; empty: remote_extractor applies."),
    "page": ("false", "Show the map in a browser, in the node page: true or false."),
    "page_port": ("8080", "Port of the page on localhost; 0: any free one, see its log."),
    "config": ("", "File with the other parameters; share/feature_gs_ros/config has all of them with their defaults."),
    "namespace": ("", "Namespace of the nodes."),
    "tf": ("/tf", "Topic of dynamic transforms, e.g. tf in a robot's namespace."),
    "tf_static": ("/tf_static", "Topic of static transforms."),
    "respawn": ("true", "Restart a node that exits by itself: true or false."),
    "log_level": ("info", "debug, info, warn or error."),
}
# What a feature_extractor takes over from feature_map's parameters.
OF_EXTRACTOR = ("extractor", "extractor_options", "image_reliability", "use_sim_time", "autostart")
OF_PAGE = ("map_frame", "image_reliability", "use_sim_time")
OF_IMAGES = ("image", "camera_info", "input", "rectified")


def generate_launch_description() -> LaunchDescription:
    arguments = {name: ("", text) for name, text in (PARAMETERS | CAMERA).items()} | OTHERS
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list[Any]:
    """The nodes; an argument counts before the config file, and this before the defaults."""
    given = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *CAMERA, *OTHERS)}
    file = config_file(given["config"])
    configured = parameters_in(file, f"{given['namespace']}/feature_map")
    camera = next(iter(configured.get("cameras", [])), "camera")
    passed: dict[str, Any] = {name: given[name] for name in PARAMETERS if given[name]}
    passed |= {name: truth(name, given[name]) for name in TRUTHS if given[name]}
    passed |= {f"{camera}.{name}": given[name] for name in CAMERA if given[name]}
    pages = page_nodes(given, file, configured, camera, passed)
    remote = "remote_teacher" if given["remote_teacher"] else "remote_extractor"
    if not truth(remote, given[remote]):
        return [node("feature_map", given, [*file, unless_in(configured) | passed]), *pages]
    own = parameters_in(file, f"{given['namespace']}/feature_extractor")
    extractor = unless_in(own)
    extractor |= {name: value for name, value in of_extractor(configured, camera).items() if name not in own}
    grids = {f"{camera}.image": GRIDS, f"{camera}.input": "grid"}
    return [
        node("feature_map", given, [*file, unless_in(configured) | passed | grids]),
        node("feature_extractor", given, [*file, extractor | of_extractor(passed, camera)]),
        *pages,
    ]


def page_nodes(
    given: dict[str, str], file: list[str], configured: dict[str, Any], camera: str, passed: dict[str, Any]
) -> list[Any]:
    """The node page, where it is asked for, with the topics of feature_map's first camera; none otherwise."""
    if not truth("page", given["page"]):
        return []
    own = parameters_in(file, f"{given['namespace']}/page")
    known = configured | passed
    shared = {name: known[name] for name in OF_PAGE if name in known}
    shared |= {name: known[key] for name in OF_IMAGES if (key := f"{camera}.{name}") in known}
    if shared.get("input") == "grid":  # no images come
        shared = {name: value for name, value in shared.items() if name not in ("input", "image")}
    followed = {name: value for name, value in shared.items() if name not in own}
    port = {} if "port" in own and given["page_port"] == OTHERS["page_port"][0] else {"port": int(given["page_port"])}
    return [
        Node(
            package="feature_gs_ros",
            executable="page",
            name="page",
            namespace=given["namespace"],
            parameters=[*file, followed | port],
            remappings=[("/tf", given["tf"]), ("/tf_static", given["tf_static"])],
            output="screen",
        )
    ]


def config_file(given: str) -> list[str]:
    """The whole path of the file with parameters, none where none is given."""
    path = Path(given).expanduser()
    if given and not path.is_file():
        raise FileNotFoundError(f"config:={given}: there is no file '{path}'; give one with parameters")
    return [str(path)] if given else []


def unless_in(configured: dict[str, Any]) -> dict[str, Any]:
    """Defaults of this file, where the config file doesn't say otherwise."""
    return {name: value for name, value in DEFAULTS.items() if name not in configured}


def of_extractor(parameters: dict[str, Any], camera: str) -> dict[str, Any]:
    """feature_extractor's parameters that follow from those of feature_map."""
    found = {name: parameters[name] for name in OF_EXTRACTOR if name in parameters}
    found |= {name: parameters[key] for name in OF_IMAGES if (key := f"{camera}.{name}") in parameters}
    if found.get("input") == "grid":  # then they are the grids that feature_map takes
        found = {name: value for name, value in found.items() if name not in ("input", "image")}
    return found


def parameters_in(files: list[str], name: str) -> dict[str, Any]:
    """What parameter files say to the node of this whole name; later sections count before earlier ones."""
    found: dict[str, Any] = {}

    def walk(content: dict[str, Any], section: str) -> None:
        for key, value in content.items():
            if key != "ros__parameters":
                walk(value, f"{section}/{key.strip('/')}")
            elif re.fullmatch(pattern(section), "/" + name.strip("/")):
                found.update(flat(value))

    for file in files:
        walk(yaml.safe_load(Path(file).read_text()) or {}, "")
    return found


def pattern(section: str) -> str:
    """Of the names that a section is for: ``**`` stands for any number of words, ``*`` for one."""
    words = {"**": r"(/[^/]+)*", "*": r"/[^/]+"}
    return "".join(words.get(word, f"/{re.escape(word)}") for word in section.strip("/").split("/"))


def flat(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their whole names."""
    found: dict[str, Any] = {}
    for key, value in parameters.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def node(name: str, given: dict[str, str], parameters: list[Any]) -> LifecycleNode:
    """A node that gets time to save, and is restarted where it ends by itself.

    As a LifecycleNode its transitions are launch events, for OnStateTransition of a launch file that includes this one.
    """
    logger = ".".join([*given["namespace"].strip("/").split("/"), name]).lstrip(".")
    return LifecycleNode(
        package="feature_gs_ros",
        executable=name,
        name=name,
        namespace=given["namespace"],
        parameters=parameters,
        remappings=[("/tf", given["tf"]), ("/tf_static", given["tf_static"])],
        output="screen",
        respawn=truth("respawn", given["respawn"]),
        respawn_delay=2.0,
        sigterm_timeout=SAVE_TIME,
        sigkill_timeout=SAVE_TIME,
        arguments=["--ros-args", "--log-level", f"{logger}:={given['log_level']}"],
    )
