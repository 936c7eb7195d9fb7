"""What the nodes offer is written down: every parameter in the config files, every field of every message."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters

from feature_gs_ros.ros.runtime import parameters as declared
from ros.harness import Robot, Starter

SHARE = Path(get_package_share_directory("feature_gs_ros"))
KINDS = {
    ParameterType.PARAMETER_BOOL: "bool_value",
    ParameterType.PARAMETER_INTEGER: "integer_value",
    ParameterType.PARAMETER_DOUBLE: "double_value",
    ParameterType.PARAMETER_STRING: "string_value",
    ParameterType.PARAMETER_DOUBLE_ARRAY: "double_array_value",
    ParameterType.PARAMETER_STRING_ARRAY: "string_array_value",
}


def parameters_of(robot: Robot, node: str, names: Iterable[str]) -> dict[str, object]:
    request = GetParameters.Request(names=list(names))
    values = robot.call(GetParameters, f"{node}/get_parameters", request).values
    return {name: getattr(value, KINDS[value.type]) for name, value in zip(request.names, values, strict=True)}


@pytest.mark.parametrize(
    ("node", "parameters"),
    [
        ("feature_map", (*declared.FEATURE_MAP, *declared.camera_parameters("camera"))),
        ("feature_extractor", declared.FEATURE_EXTRACTOR),
        ("bag_player", declared.BAG_PLAYER),
    ],
)
def test_the_config_file_holds_every_parameter(node, parameters):
    """Made by `config_text`: write it anew where this fails."""
    text = (SHARE / "config" / f"{node}.yaml").read_text()
    assert text == declared.config_text(node, parameters)
    content = yaml.safe_load(text)[f"/**/{node}"]["ros__parameters"]
    assert {parameter.name: parameter.default for parameter in parameters} == content


def test_the_node_declares_what_the_config_file_says(robot: Robot, start: Starter):
    start.program("feature_map")
    lists = robot.call(ListParameters, "/feature_map/list_parameters", ListParameters.Request())
    names = sorted(set(lists.result.names) - {"use_sim_time"})
    content = yaml.safe_load((SHARE / "config" / "feature_map.yaml").read_text())
    content = content["/**/feature_map"]["ros__parameters"]
    assert names == sorted(content)
    for name, given in parameters_of(robot, "/feature_map", names).items():
        assert (list(given) if isinstance(content[name], list) else given) == content[name], name
    described = robot.call(
        DescribeParameters, "/feature_map/describe_parameters", DescribeParameters.Request(names=names)
    ).descriptors
    assert all(descriptor.description for descriptor in described)
    numbers = [d for d in described if d.type in (ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_DOUBLE)]
    assert all(d.integer_range or d.floating_point_range for d in numbers)


def test_every_field_of_every_message_is_explained():
    """Unit, frame, range, or what it is, on the field's own line."""
    files = [file for kind in ("msg", "srv", "action") for file in (SHARE / kind).glob(f"*.{kind}")]
    assert len(files) >= 17
    for file in files:
        text = file.read_text()
        assert text.startswith("# "), f"{file.name} begins with what it is for"
        for line in text.splitlines():
            code, _, comment = line.partition("#")
            is_field = code.strip() and not code.startswith("---") and "=" not in code
            assert comment.strip() or not is_field, f"{file.name}: {line}"
