"""Parameters on a node: declared from the table, read by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException, ParameterUninitializedException

from feature_gs_ros.core.errors import ParameterError
from feature_gs_ros.ros.runtime.parameter_table import Parameter


def declare(node: Any, parameters: Sequence[Parameter]) -> None:
    """Declare parameters on a node.

    Raises:
        ParameterError: one is given out of its range.
        ParameterException: one is given of another type; rclpy says which.
    """
    for parameter in parameters:
        try:
            node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter))
        except InvalidParameterValueException as error:
            raise ParameterError(
                f"{error}; {parameter.hint}" if parameter.hint else str(error), code="parameter.value"
            ) from error


def value(node: Any, name: str) -> Any:
    """A declared parameter's value now.

    Raises:
        ParameterError: it is an empty list, for which rclpy has no type.
    """
    try:
        return node.get_parameter(name).value
    except ParameterUninitializedException:
        meaning = node.describe_parameter(name).description
        raise ParameterError(
            f"parameter {name} is empty; it must hold at least one: {meaning}", code="parameter.range"
        ) from None


def chosen(node: Any, name: str, choices: Sequence[str]) -> str:
    """The value of a parameter that is one of some words.

    Raises:
        ParameterError: it isn't.
    """
    word = str(value(node, name))
    if word not in choices:
        raise ParameterError(f"parameter {name} is '{word}'; choose {', '.join(choices)}", code="parameter.range")
    return word


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=parameter.description, read_only=parameter.read_only)
    if parameter.low is not None and parameter.high is not None:
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=parameter.low, to_value=parameter.high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high))]
    return descriptor
