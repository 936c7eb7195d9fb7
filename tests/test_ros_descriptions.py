"""What the nodes offer is written down: every parameter in a config file, every field of every message. Without ROS."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from feature_gs_ros.ros.runtime.parameter_table import (
    BAG_PLAYER,
    FEATURE_EXTRACTOR,
    FEATURE_MAP,
    PAGE,
    Parameter,
    camera_parameters,
    config_text,
)

ROOT = Path(__file__).resolve().parents[1]
NODES = {
    "feature_map": (*FEATURE_MAP, *camera_parameters("camera")),
    "feature_extractor": FEATURE_EXTRACTOR,
    "bag_player": BAG_PLAYER,
    "page": PAGE,
}


def names_read(file: Path) -> set[str]:
    """The parameters that a file's `value(node, "…")` and `chosen(node, "…", …)` read; {name} stands for a camera's."""
    found = set()
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("value", "chosen")):
            continue
        name = call.args[1]
        if isinstance(name, ast.Constant):
            found.add(str(name.value))
        elif isinstance(name, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "camera" for part in name.values)
            found.add("".join(parts))
    return found


def test_every_parameter_that_is_read_is_declared_and_the_other_way_round() -> None:
    declared = {parameter.name for parameters in NODES.values() for parameter in parameters}
    files = (ROOT / "feature_gs_ros" / "ros").rglob("*.py")
    read = set().union(*(names_read(file) for file in files if file.name != "parameters.py"))
    assert read == declared


@pytest.mark.parametrize(("node", "parameters"), NODES.items())
def test_the_config_file_holds_every_parameter(node: str, parameters: tuple[Parameter, ...]) -> None:
    """Made by `config_text`: write it anew where this fails."""
    text = (ROOT / "launch" / "config" / f"{node}.yaml").read_text()
    assert text == config_text(node, parameters)
    content = yaml.safe_load(text)[f"/**/{node}"]["ros__parameters"]
    assert {parameter.name: parameter.default for parameter in parameters} == content


def test_every_field_of_every_message_is_explained() -> None:
    """Unit, frame, range, or what it is, on the field's own line."""
    files = [file for kind in ("msg", "srv", "action") for file in (ROOT / kind).glob(f"*.{kind}")]
    assert len(files) >= 17
    for file in files:
        text = file.read_text()
        assert text.startswith("# "), f"{file.name} begins with what it is for"
        for line in text.splitlines():
            code, _, comment = line.partition("#")
            is_field = code.strip() and not code.startswith("---") and "=" not in code
            assert comment.strip() or not is_field, f"{file.name}: {line}"
