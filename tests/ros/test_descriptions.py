"""A node that runs offers the parameters that its config file describes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters

from ros.harness import Robot, Starter

SHARE = Path(get_package_share_directory("feature_gs_ros"))
OF_RCLPY = {"use_sim_time", "start_type_description_service"}  # the second since Iron
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


def test_the_node_declares_what_the_config_file_says(robot: Robot, start: Starter):
    start.program("feature_map")
    lists = robot.call(ListParameters, "/feature_map/list_parameters", ListParameters.Request())
    names = sorted(set(lists.result.names) - OF_RCLPY)
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
