"""The node page: a running feature_map in a real browser, whose questions go to the node's own services."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import pytest

from ros.harness import Robot, Starter, Watch, wait_until
from ros.scene import camera_from_map, take_picture
from tests.page.browser import Browser, Tab, again_if_it_dies, chromium, running

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="viser is not installed: no page"),
    pytest.mark.skipif(chromium() is None, reason="no chromium here: the page is not tested in a browser"),
]

VIEWS = 8
PATIENCE = 180.0  # s
STATUS = "document.querySelector('[data-status]')?.innerText ?? ''"
ANSWER = "[...document.querySelectorAll('[data-state]')].map(e => e.innerText).join('|')"
NODE = "document.querySelector('[data-node]')?.innerText ?? ''"


@pytest.fixture(scope="module")
def address(start_once: Starter) -> Iterator[str]:
    """Of the page of a feature_map that is active."""
    start_once.active()
    page = start_once.program("page", port=0, image_reliability="reliable", image_rate=10.0)
    told = wait_until(lambda: re.search(r"open (http://\S+)", page.log.read_text()), PATIENCE, "the page's address")
    assert isinstance(told, re.Match)
    yield told[1]
    assert page.stop() == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("browser")) as there:
        yield there


def ask(tab: Tab, text: str) -> str:
    """Type a prompt and press Enter; what the answers say."""
    tab.fill("prompt", text)
    tab.key("Enter", 13)
    tab.wait(f"({STATUS}).includes('answered') && ({ANSWER}).includes('{text}')", PATIENCE)
    return str(tab.value(ANSWER))


@again_if_it_dies
def test_the_page_asks_the_node_and_shows_what_it_sends(
    browser: Browser, address: str, robot: Robot, gaussians
) -> None:
    tab = browser.tab(800, 480)
    tab.open(address)
    tab.wait(f"({STATUS}).includes('{len(gaussians)} Gaussians of /feature_map')", PATIENCE)
    wait_until(lambda: robot.images.get_subscription_count() == 2)  # the node's, and the page's
    watch = Watch(robot)
    robot.publish_info(robot.now())
    for k in range(VIEWS):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / VIEWS)), camera_from_map(k / VIEWS))
    assert watch.outcome(VIEWS) == (VIEWS, {})
    tab.wait(f"/[1-9]\\d* of \\d+ frames used/.test({NODE})", PATIENCE)
    tab.wait("!!document.querySelector('[data-pose]')", PATIENCE)

    assert "red: found" in ask(tab, "red")
    assert "object 1" in str(tab.value(ANSWER))
    for k in range(VIEWS):  # the node goes on while the page asks
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / VIEWS)), camera_from_map(k / VIEWS))
    assert "blue: found" in ask(tab, "blue")
    used, left_out = watch.outcome(VIEWS)
    assert used, left_out

    # An edit is the node's own: its map is another one then, and the old one again.
    ask(tab, "red")
    tab.press("Edit")
    tab.press("Delete")
    tab.wait(f"({STATUS}).includes('did')", PATIENCE)
    assert "red: found" not in ask(tab, "red")
    tab.press("Undo")
    tab.wait(f"({STATUS}).includes('undid')", PATIENCE)
    assert "red: found" in ask(tab, "red")

    # What is wrong is said, and the page goes on.
    tab.fill("prompt", "quux")
    tab.key("Enter", 13)
    tab.wait("document.querySelector('[data-status]')?.dataset.status === 'error'", PATIENCE)
    assert "green: found" in ask(tab, "green")
    assert tab.errors == []
    tab.close()


def test_a_port_that_is_taken_is_said(address: str, start_once: Starter) -> None:
    port = int(address.rpartition(":")[2])
    second = start_once.program("page", remap={"__node": "second_page"}, port=port)
    assert second.process.wait(PATIENCE) == 2
    assert f"port {port}" in second.log.read_text()
