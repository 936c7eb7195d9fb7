"""The page in a real browser: headless Chromium with software WebGL, driven over its DevTools protocol."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feature_gs_ros.backprojection.build import back_project
from feature_gs_ros.cli.view import open_content
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.page.content import Content
from tests.command_line import run
from tests.page.browser import Browser, Tab, chromium, running

if TYPE_CHECKING:
    from feature_gs_ros.page.app import Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="viser is not installed: no page"),
    pytest.mark.skipif(chromium() is None, reason="no chromium here: the page is not tested in a browser"),
]

WIDTH, HEIGHT = 1000, 560
PROMPT = "document.querySelector('form input')"
ANSWER = "[...document.querySelectorAll('[data-state]')].map(e => e.innerText).join('|')"
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
def page(content: Content) -> Iterator[Page]:
    from feature_gs_ros.page.app import Page

    running_page = Page(content, port=0)
    yield running_page
    running_page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("browser")) as there:
        yield there


def opened(browser: Browser, page: Page, downloads: Path | None = None) -> Tab:
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


def test_ask_take_away_and_delete(browser: Browser, page: Page, field_file: Path, tmp_path: Path) -> None:
    tab = opened(browser, page, tmp_path)

    said = ask(tab, "coffee mug")
    assert "coffee mug: found" in said
    assert "object 1" in tab.wait(f"({ANSWER}).includes('object 1') && ({ANSWER})")

    # The segment is what the command writes, byte by byte.
    tab.press("Take away")
    tab.press("Segment as a map")
    taken = tmp_path / "coffee_mug.ply"
    tab.wait(f"({STATUS}).includes('sent coffee_mug.ply')")
    for _ in range(200):
        if taken.is_file():
            break
        tab.value("new Promise(done => setTimeout(done, 50))")
    written = tmp_path / "command.ply"
    run("query", field_file, "coffee mug", "--cloud", written)
    assert taken.read_bytes() == written.read_bytes()
    command = tab.value("[...document.querySelectorAll('textarea')].map(e => e.value).join()")
    assert shlex.split(command)[:4] == ["feature-gs", "query", str(field_file), "coffee mug"]

    # Deleted it is gone.
    tab.press("Edit")
    tab.press("Delete")
    tab.wait(f"({STATUS}).includes('did delete')")
    assert tab.errors == []
    tab.close()


def test_another_sites_page_is_turned_away(page: Page) -> None:
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
