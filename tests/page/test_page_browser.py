"""The page in a real browser: headless Chromium with software WebGL, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from feature_gs_ros.affordance import Library
from feature_gs_ros.backprojection.build import back_project
from feature_gs_ros.backprojection.looks import Looks
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.page.canvas import PANEL_FRACTION
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.opening import open_content
from feature_gs_ros.page.scene import start_camera
from feature_gs_ros.query.answers import objects_of
from feature_gs_ros.query.masks_3d import Segmenter
from tests.command_line import run
from tests.errors import raises
from tests.page.browser import Browser, Tab, again_if_it_dies, chromium, running

if TYPE_CHECKING:
    from feature_gs_ros.page.app import PageSession
    from feature_gs_ros.page.server import PageServer

    Server = PageServer[PageSession]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="viser is not installed: no page"),
    pytest.mark.skipif(chromium() is None, reason="no chromium here: the page is not tested in a browser"),
]

WIDTH, HEIGHT = 1100, 480  # the panel covers 400 pixels
PROMPT = "document.querySelector('form input')"
ANSWER = "[...document.querySelectorAll('[data-state]')].map(e => e.innerText).join('|')"
THRESHOLD = "Number(document.body.innerText.match(/threshold (\\d\\.\\d+)/)?.[1])"
PAINTED = "Number(document.querySelector('[data-painted]')?.dataset.painted ?? -1)"
LEFT = "document.body.innerText.match(/(\\d+) of \\d+ Gaussians/)"
STATUS = "document.querySelector('[data-status]')?.innerText ?? ''"


@pytest.fixture(scope="module")
def field_file(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic tabletop's features, by the default extractor."""
    folder = tmp_path_factory.mktemp("field")
    gaussians = load_map(small_scene / "map.ply")
    stream = open_stream(small_scene / "stream")
    field = back_project(gaussians, stream, splat_from_map=load_alignment(small_scene / "alignment.yaml"), every=2)
    named = replace(field.provenance, map_path=str(small_scene / "map.ply"), stream=str(small_scene / "stream"))
    replace(field, provenance=named).save(folder / "field.safetensors")
    return folder / "field.safetensors"


@pytest.fixture(scope="module")
def content(field_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Content:
    return open_content(field_file, tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def page(content: Content) -> Iterator[Server]:
    with shown(content) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("browser")) as there:
        yield there


def shown(content: Content) -> Server:
    """A page of this content."""
    from feature_gs_ros.page.app import show
    from feature_gs_ros.page.server import PageServer

    server: Server = PageServer("127.0.0.1", 0)
    show(content, server)
    return server


def opened(browser: Browser, page: Server, downloads: Path | None = None) -> Tab:
    """A tab that shows all of the map."""
    tab = browser.tab(WIDTH, HEIGHT, downloads)
    tab.open(page.address)
    tab.wait(f"({STATUS}).includes('Gaussians of')")
    return tab


def ask(tab: Tab, text: str) -> str:
    """Type a prompt and press Enter; what the answers say once they are settled."""
    tab.click(*tab.place(PROMPT))
    tab.value(f"{PROMPT}.select()")
    tab.type(text)
    tab.key("Enter", 13)
    tab.wait(f"({STATUS}).includes('answered') && ({ANSWER}).includes({json.dumps(text.split(',')[-1].strip())})")
    return str(tab.value(ANSWER))


def standing(tab: Tab, expression: str) -> int:
    """A number once it no longer changes: what a browser sent last may be on its way."""
    before = None
    while (now := tab.value(expression)) != before:
        before = now
        tab.value("new Promise(done => setTimeout(done, 1000))")
    return int(now)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that no event tells."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it doesn't come to be so"
        time.sleep(0.05)


def pixel_of(content: Content, point: NDArray[np.float64]) -> tuple[float, float]:
    """Where a point of the map frame lies in the picture with which a browser begins."""
    position, target, fov = start_camera(content)
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    focal = HEIGHT / 2 / np.tan(fov / 2)
    x, y, z = np.stack([right, np.cross(forward, right), forward]) @ (point - position)
    return WIDTH / 2 + focal * x / z, HEIGHT / 2 + focal * y / z


@again_if_it_dies
def test_ask_drag_the_threshold_export_delete_and_undo(
    browser: Browser, page: Server, content: Content, field_file: Path, tmp_path: Path
) -> None:
    tab = opened(browser, page, tmp_path)
    said = ask(tab, "coffee mug")
    assert "coffee mug: found" in said
    assert "object 1" in tab.wait(f"({ANSWER}).includes('object 1') && ({ANSWER})")

    # The segment is what the command writes, byte by byte.
    tab.press("Export")
    tab.press("Segment as map file")
    taken = tmp_path / "coffee_mug.ply"
    tab.wait(f"({STATUS}).includes('sent coffee_mug.ply')")
    until(taken.is_file)
    written = tmp_path / "command.ply"
    run("query", field_file, "coffee mug", "--cloud", written)
    assert taken.read_bytes() == written.read_bytes()
    command = tab.value("[...document.querySelectorAll('textarea')].map(e => e.value).join()")
    assert shlex.split(command)[:4] == ["feature-gs", "query", str(field_file), "coffee mug"]

    # The threshold acts as it is dragged.
    tab.slide("threshold", 0.8)
    tab.wait(f"{THRESHOLD} > 0.75")
    tab.slide("threshold", 0.5)
    tab.wait(f"{THRESHOLD} < 0.55 && ({ANSWER}).includes('object 1')")

    # Deleted it is gone, and undone it is there again.
    total = len(content.gaussians)
    tab.press("Edit")
    tab.press("Delete")
    tab.wait(f"({STATUS}).includes('did delete')")
    left = int(tab.wait(f"{LEFT}?.[1]"))
    assert 0 < left < total
    tab.press("Undo")
    tab.wait(f"{LEFT}?.[1] === '{total}'")
    tab.wait(f"({ANSWER}).includes('coffee mug: found')")
    assert tab.errors == []
    tab.close()


@again_if_it_dies
def test_a_click_on_the_bottle_asks_by_example(browser: Browser, page: Server, content: Content) -> None:
    assert content.segmenter is not None
    with content.asking:
        answer = content.segmenter.ask(["wine bottle"])[0]
    bottle = objects_of(content.segmenter, answer)[0].box
    tab = opened(browser, page)
    tab.toggle("cameras")  # no image is in the way
    tab.wait(f"!{tab.field('cameras')}.checked")
    tab.click(*pixel_of(content, bottle.center))
    said = tab.wait(f"({ANSWER}).includes('object 1') && ({ANSWER})")
    assert "what was clicked: found" in said
    found = re.search(r"object 1: .* m at \((.*?)\)", said)
    assert found is not None
    where = np.array([float(value) for value in found[1].split(",")])
    assert np.linalg.norm(where - bottle.center) < 0.1
    tab.close()


@again_if_it_dies
def test_a_part_is_painted_named_and_found(browser: Browser, page: Server, content: Content) -> None:
    tab = opened(browser, page)
    tab.press("Affordances")
    tab.press("Paint on this image")
    tab.wait(f"{PAINTED} === 0")
    middle = (WIDTH * (1 - PANEL_FRACTION) / 2, HEIGHT / 2)  # of the image, beside the panel
    tab.drag((middle[0] - 60, middle[1]), (middle[0] + 60, middle[1]))
    tab.wait(f"{PAINTED} > 0")
    painted = standing(tab, PAINTED)
    tab.press("erase")
    tab.drag((middle[0], middle[1] - 40), (middle[0], middle[1] + 40))
    tab.wait(f"{PAINTED} < {painted}")
    standing(tab, PAINTED)
    tab.press("Undo stroke")
    tab.wait(f"{PAINTED} === {painted}")
    tab.fill("part", "top")
    tab.press("Add to the library")
    tab.wait(f"({STATUS}).includes(\"added 'top-1'\")")
    assert Library.load(content.folder("affordances.safetensors")).affordances == ("top",)
    tab.press("Find on the map")
    said = tab.wait(f"({ANSWER}).includes('region 1: gripper') && ({ANSWER})")
    assert "top: found" in said
    ask(tab, "banana")  # another question takes its place
    tab.wait(f"!({ANSWER}).includes('region 1')")
    tab.close()


@again_if_it_dies
def test_browsers_have_their_own_questions_and_leave_nothing_behind(browser: Browser, page: Server) -> None:
    until(lambda: len(page.sessions) == 0)
    one, other = opened(browser, page), opened(browser, page)
    assert len(page.sessions) == 2
    ask(one, "coffee mug")
    said = ask(other, "wine bottle, lawn mower")
    assert "coffee mug" not in said
    assert "wine bottle" not in str(one.value(ANSWER))
    assert "lawn mower: not found" in said
    assert other.style("document.querySelector('[data-state=\"found\"]')", "borderLeftStyle") == "solid"
    assert other.style("document.querySelector('[data-state=\"not found\"]')", "borderLeftStyle") == "dashed"
    one.close()
    until(lambda: len(page.sessions) == 1)
    other.close()
    until(lambda: len(page.sessions) == 0)


@again_if_it_dies
def test_what_no_camera_saw_is_not_observed(browser: Browser, content: Content) -> None:
    assert content.segmenter is not None
    field = content.segmenter.field
    blind = replace(field, view_count=torch.zeros_like(field.view_count), looks=Looks())
    segmenter = Segmenter(content.gaussians, blind, content.segmenter.extractor)
    page = shown(replace(content, segmenter=segmenter, asking=threading.Lock()))
    try:
        tab = opened(browser, page)
        assert "wine bottle: not observed" in ask(tab, "wine bottle")
        assert tab.style("document.querySelector('[data-state]')", "borderLeftStyle") == "dotted"
        tab.close()
    finally:
        page.close()


def test_another_sites_page_is_turned_away(page: Server) -> None:
    import viser
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    def first_message(origin: str) -> bytes | str:
        address = page.address.replace("http", "ws")
        spoken = [Subprotocol(f"viser-v{viser.__version__}")]
        with connect(address, origin=Origin(origin), subprotocols=spoken, max_size=None) as socket:
            return socket.recv(timeout=20)

    assert first_message(page.address)
    with pytest.raises(ConnectionClosed):
        first_message("http://evil.example")


def test_a_viser_that_hides_who_connects_is_refused() -> None:
    from feature_gs_ros.page.origin import only_own_pages

    for server in (
        SimpleNamespace(),
        SimpleNamespace(_websock_server=SimpleNamespace(on_client_connect=print)),
        SimpleNamespace(_websock_server=SimpleNamespace(_live_connections={})),
    ):
        with raises("option.unsupported", "viser"):
            only_own_pages(server, "localhost")


@pytest.mark.parametrize("connections", [{}, {7: None}, {7: SimpleNamespace(request=None)}])
def test_a_connection_without_headers_gets_an_error_and_so_its_end(connections: dict[int, object]) -> None:
    from feature_gs_ros.page.origin import only_own_pages

    checks: list[Any] = []
    socket = SimpleNamespace(_live_connections=connections, on_client_connect=checks.append)
    only_own_pages(SimpleNamespace(_websock_server=socket), "localhost")
    with pytest.raises((KeyError, AttributeError)):
        asyncio.run(checks[0](SimpleNamespace(client_id=7)))
