"""A small driver of headless Chromium over its DevTools protocol: open, wait, type, click, drag, take a picture."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Software WebGL: splats are drawn where there is no GPU, too.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0",
    "--disable-extensions", "--mute-audio", "--force-color-profile=srgb",
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
        raise AssertionError(f"not within {seconds} s: {expression}; the page says: {self.text()[-1500:]}")

    def text(self) -> str:
        """All text of the page."""
        return str(self.value("document.body ? document.body.innerText : ''"))

    def place(self, find: str) -> tuple[float, float]:
        """Middle of the element that a JavaScript expression gives, scrolled into view, once it stands still."""
        self.wait(f"!!({find})")
        self.value(f"({find}).scrollIntoView({{block: 'center'}})")
        box, before = f"({find}).getBoundingClientRect()", None
        while True:  # what opens or closes above it moves it meanwhile
            x, y = self.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box})")
            if (x, y) == before:
                return x, y
            before = (x, y)
            self.value("new Promise(done => setTimeout(done, 100))")

    def press(self, text: str) -> None:
        """Click what shows exactly this text: a button, or a folder's title."""
        elements = "[...document.querySelectorAll('button, p, div, span, legend')]"
        shows = f"e => e.innerText && e.innerText.trim() === {json.dumps(text)} && e.offsetParent"
        find = f"{elements}.filter({shows}).at(-1)"
        self.wait(f"!!({find})")
        self.value(f"({find}).click()")

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

    def picture(self, path: Path | None = None, **options: Any) -> bytes:
        """A picture of the tab."""
        data = base64.b64decode(self.call("Page.captureScreenshot", **options)["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def close(self) -> None:
        self._socket.close()


class Browser:
    """A running browser."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self._port = port
        self._process = process

    def tab(self, width: int = 1280, height: int = 800, downloads: Path | None = None) -> Tab:
        """A new tab."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            tab = Tab(json.load(answer)["webSocketDebuggerUrl"])
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        if downloads is not None:
            tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        return tab


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder."""
    program = chromium()
    assert program is not None
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        told = folder / "DevToolsActivePort"  # the port, then the path; it is seen half written, too
        end = time.monotonic() + 60
        while len(lines := told.read_text().split("\n") if told.is_file() else []) < 2:
            assert process.poll() is None, "the browser ended"
            assert time.monotonic() < end, "the browser doesn't begin"
            time.sleep(0.05)
        yield Browser(int(lines[0]), process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
