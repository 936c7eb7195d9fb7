"""A small driver of headless Chromium over its DevTools protocol: open, wait, type, click, drag, take a picture."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Software WebGL: splats are drawn where there is no GPU, too.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0",
    "--disable-extensions", "--mute-audio", "--disable-renderer-backgrounding", "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows", "--force-color-profile=srgb",
)  # fmt: skip


def chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One tab of the browser, driven over a web socket."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=None, open_timeout=30)
        self._number = 0
        self.errors: list[str] = []  # uncaught exceptions of the page
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, timeout: float = 60, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        end = time.monotonic() + timeout
        while True:
            message = json.loads(self._socket.recv(timeout=max(0.01, end - time.monotonic())))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"])[:500])
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return dict(message["result"])

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """What JavaScript gives for an expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 120) -> Any:
        """The first true value of an expression; fails after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {expression}; the page says: {self.text()[:1500]}")

    def text(self) -> str:
        """All text of the page."""
        return str(self.value("document.body ? document.body.innerText : ''"))

    def place(self, find: str) -> tuple[float, float]:
        """Middle of the element that a JavaScript expression gives, scrolled into view, once it stands still there."""
        self.wait(f"!!({find})")
        middle = (
            "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " const x = r.x + r.width / 2, y = r.y + r.height / 2, hit = document.elementFromPoint(x, y);"
            f" return [x, y, !!hit && (e.contains(hit) || hit.contains(e))]; }})({find})"
        )
        self.call("Page.bringToFront")  # a tab behind another one draws nothing
        before = None
        end = time.monotonic() + 120
        while time.monotonic() < end:  # what opens or closes above it moves it meanwhile
            x, y, hit = self.value(middle)
            if hit and (x, y) == before:
                return x, y
            before = (x, y)
            self.value("new Promise(done => setTimeout(() => requestAnimationFrame(done), 100))")
        raise AssertionError(f"it doesn't stand still, or something covers it: {find}")

    def toggle(self, label: str) -> None:
        """The checkbox beside this label."""
        self.wait(f"!!({self.field(label)})")
        self.value(f"({self.field(label)}).click()")

    def press(self, text: str) -> None:
        """Click what shows exactly this text: a button, a tab, a folder's title."""
        elements = "[...document.querySelectorAll('button, p, div, span, legend')]"
        shows = f"e => e.innerText && e.innerText.trim() === {json.dumps(text)} && e.offsetParent"
        find = f"{elements}.filter({shows}).at(-1)"
        self.click(*self.place(find))

    def click(self, x: float, y: float, modifiers: int = 0) -> None:
        """Press and release the left button; modifiers: 8 is shift."""
        self.mouse("mouseMoved", x, y, modifiers)
        self.mouse("mousePressed", x, y, modifiers)
        self.mouse("mouseReleased", x, y, modifiers)

    def mouse(self, kind: str, x: float, y: float, modifiers: int = 0) -> None:
        buttons = {"mousePressed": 1, "mouseMoved": 0, "mouseReleased": 0, "mouseDragged": 1}[kind]
        self.call(
            "Input.dispatchMouseEvent", type="mouseMoved" if kind == "mouseDragged" else kind, x=x, y=y,
            modifiers=modifiers, button="none" if kind == "mouseMoved" else "left", buttons=buttons, clickCount=1,
        )  # fmt: skip

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 10) -> None:
        """The left button pressed from here to there."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self.mouse("mouseDragged", x, y)
        self.mouse("mouseReleased", *end)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def key(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                text="\r" if key == "Enter" and kind == "keyDown" else "",
            )  # fmt: skip

    def field(self, label: str) -> str:
        """An expression for the input beside this label."""
        shown = f"e => e.innerText.trim() === {json.dumps(label)} && e.offsetParent"
        labels = f"[...document.querySelectorAll('label')].find({shown})"
        return f"{labels}?.closest(':has(input, textarea)').querySelector('input, textarea')"

    def fill(self, label: str, text: str) -> None:
        """Type into the input beside this label, in place of what is there."""
        find = self.field(label)
        self.click(*self.place(find))
        self.value(f"{find}.select()")
        self.type(text)

    def style(self, find: str, name: str) -> str:
        """A computed style of the element that an expression gives."""
        self.wait(f"!!({find})")
        return str(self.value(f"getComputedStyle({find})[{json.dumps(name)}]"))

    def slide(self, label: str, fraction: float) -> None:
        """Drag the thumb of the slider with this label to a fraction of its way."""
        shown = f"e => e.innerText.trim() === {json.dumps(label)}"
        find = f"document.getElementById([...document.querySelectorAll('label')].find({shown})?.htmlFor)"
        thumb = self.place(f"{find}?.querySelector('[role=slider]')")
        track = f"{find}.querySelector('.mantine-Slider-track').getBoundingClientRect()"
        left, width, y = self.value(f"(r => [r.x, r.width, r.y + r.height / 2])({track})")
        self.drag(thumb, (left + fraction * width, y))

    def picture(self, path: Path | None = None, **options: Any) -> bytes:
        """A picture of the tab."""
        data = base64.b64decode(self.call("Page.captureScreenshot", **options)["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def close(self) -> None:
        """Close the tab; the page's own connection ends with it."""
        with contextlib.suppress(Exception):
            self.call("Page.close", timeout=20)
        self._socket.close()


class Browser:
    """A browser, started when a tab is first asked for, and anew where it died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tab(self, width: int = 1280, height: int = 800, downloads: Path | None = None) -> Tab:
        """A new tab."""
        if not self.alive:
            self._start()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # to this machine by no proxy
        with straight.open(request, timeout=60) as answer:
            tab = Tab(json.load(answer)["webSocketDebuggerUrl"])
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        if downloads is not None:
            tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        return tab

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        program = chromium()
        assert program is not None
        self.end()
        self._starts += 1
        folder = self._folder / str(self._starts)
        self._process = process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        told = folder / "DevToolsActivePort"  # the port, then the path; it is seen half written, too
        end = time.monotonic() + 120
        while len(lines := told.read_text().split("\n") if told.is_file() else []) < 2:
            assert process.poll() is None, "the browser ended"
            assert time.monotonic() < end, "the browser doesn't begin"
            time.sleep(0.05)
        self._port = int(lines[0])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A browser with its profiles in a folder."""
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.end()


Parameters = ParamSpec("Parameters")


def again_if_it_dies(test: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A test with the argument ``browser`` that begins anew, once, where the browser dies under it."""

    @functools.wraps(test)
    def run(*args: Parameters.args, **named: Parameters.kwargs) -> None:
        browser = named["browser"]
        assert isinstance(browser, Browser)
        try:
            test(*args, **named)
        except Exception:
            if browser.alive:
                raise
            test(*args, **named)

    return run
