"""A service of one's own: the program of docs/extending.md, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from std_srvs.srv import Trigger

from ros.harness import ACTIVATE, CONFIGURE, DEACTIVATE, Robot, Starter
from ros.test_lifecycle import teach

DOCUMENT = Path(__file__).parents[2] / "docs/extending.md"
SERVICE = "/feature_map/coverage"


def program(folder: Path) -> str:
    """The document's program as a file."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "ServiceGroup" in block)
    path = folder / "map_with_coverage"
    path.write_text(code)
    return str(path)


def test_the_documents_service_answers_while_the_node_is_active_and_says_so_while_it_is_not(
    robot: Robot, start: Starter, gaussians, tmp_path: Path
) -> None:
    node = start.program(program(tmp_path), **start.defaults)
    assert robot.change_state(CONFIGURE)
    response = robot.call(Trigger, SERVICE, Trigger.Request())
    assert not response.success
    assert "not active" in response.message
    assert robot.change_state(ACTIVATE)
    teach(robot, gaussians)
    response = robot.call(Trigger, SERVICE, Trigger.Request())
    assert response.success
    assert response.message.endswith("in 3 views")
    assert robot.change_state(DEACTIVATE)
    assert not robot.call(Trigger, SERVICE, Trigger.Request()).success
    assert "Traceback" not in node.log.read_text()
    assert node.stop() == 0
