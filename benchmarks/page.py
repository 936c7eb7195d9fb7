"""The page in a real browser: first picture, a text answer, the threshold, a large map, the server's memory.

Needs viser and Chromium. A browser without a GPU draws in software, which these figures then hold, too: what the
server does of them is printed beside.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from feature_gs_ros.backprojection.build import back_project
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map, save_ply
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.synthetic import record, tabletop
from tests.page.browser import Browser, Tab, chromium, running

GAUSSIANS, LARGE = 60_000, 500_000
WORDS = ("coffee mug", "wine bottle", "banana", "orange", "lemon")
STATUS = "document.querySelector('[data-status]')?.innerText ?? ''"
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
ANSWER = "[...document.querySelectorAll('[data-state]')].map(e => e.innerText).join('|')"
# The longest task of the tab's main thread, in ms.
WATCH = (
    "window.longest = 0; new PerformanceObserver(list => { for (const e of list.getEntries()) "
    "window.longest = Math.max(window.longest, e.duration); }).observe({type: 'longtask', buffered: true}); true"
)


def main() -> dict[str, float]:
    """Print and return the figures; nothing where there is no browser."""
    if chromium() is None:
        print("skipped: no chromium here")
        return {}
    with tempfile.TemporaryDirectory(prefix="feature-gs-page-") as name:
        folder = Path(name)
        with running(folder / "browser") as browser:
            browser.tab().open("about:blank")  # it is there before the command begins
            return small(browser, folder) | large(browser, folder)


def small(browser: Browser, folder: Path) -> dict[str, float]:
    """A field of 60,000 Gaussians: first picture, answers, threshold, memory."""
    field = _field(folder)
    begin = time.perf_counter()
    with _page(field, folder) as (address, process):
        served = time.perf_counter() - begin
        tab = browser.tab()
        tab.open(address)
        tab.wait(f"({STATUS}).includes('Gaussians')")
        tab.value(DRAWN)
        first = time.perf_counter() - begin
        tab.wait(f"({STATUS}).includes('Gaussians of')")
        whole = time.perf_counter() - begin
        answers = [_ask(tab, word) for word in WORDS]
        told = tab.value(STATUS)
        steps = _threshold_steps(tab)
        memory = _memory(process.pid)
    size = field.stat().st_size
    print(f"{GAUSSIANS} Gaussians, field of {size / 1e6:.0f} MB")
    print(f"the command listens after {served:.1f} s, first picture {first:.1f} s, all splats sent {whole:.1f} s")
    print(f"answer on screen: {median(answers):.2f} s (the first {answers[0]:.2f} s); the server of the last: {told}")
    print(f"a step of the threshold, in words: {1e3 * median(steps):.0f} ms (slowest {1e3 * max(steps):.0f} ms)")
    print(f"server: {memory['VmRSS'] / 1e6:.0f} MB resident, of these {memory['RssAnon'] / 1e6:.0f} MB its own and "
          f"{memory['RssFile'] / 1e6:.0f} MB files that the system may drop")  # fmt: skip
    return {
        "page first picture [s]": first,
        "page answer [s]": median(answers),
        "page threshold [s]": median(steps),
        "page memory over field": memory["VmRSS"] / size,
        "page own memory over field": memory["RssAnon"] / size,
    }


def large(browser: Browser, folder: Path) -> dict[str, float]:
    """A map of 500,000 Gaussians, just to look at."""
    path = folder / "large.ply"
    save_ply(_multiplied(load_map(folder / "scene" / "map.ply"), LARGE), path)
    with _page(path, folder) as (address, process):
        tab = browser.tab()
        begin = time.perf_counter()
        tab.open(address)
        tab.wait(f"({STATUS}).includes('Gaussians')")
        tab.value(WATCH)
        first = time.perf_counter() - begin
        tab.wait(f"({STATUS}).includes('Gaussians of')", 300)
        whole = time.perf_counter() - begin
        longest = float(tab.value("window.longest")) / 1e3
        memory = _memory(process.pid)
    print(
        f"{LARGE} Gaussians: the first after {first:.1f} s, all sent after {whole:.1f} s; the tab's longest task "
        f"{longest:.2f} s; server {memory['VmRSS'] / 1e6:.0f} MB for a map of {path.stat().st_size / 1e6:.0f} MB"
    )
    return {"page 500k [s]": whole, "page 500k longest task [s]": longest}


@contextlib.contextmanager
def _page(source: Path, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command, as a user starts it, with its address."""
    program = [sys.executable, "-m", "feature_gs_ros.cli", "view", str(source), "--port", "0", "--folder", str(folder)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0], process
                return
        raise RuntimeError("feature-gs view ended")
    finally:
        process.terminate()
        process.wait()


def _ask(tab: Tab, word: str) -> float:
    tab.fill("prompt", word)
    begin = time.perf_counter()
    tab.key("Enter", 13)
    tab.wait(f"({ANSWER}).includes({word!r})")
    seconds = time.perf_counter() - begin
    tab.wait(f"({STATUS}).includes('answered')")
    tab.value(DRAWN)
    return seconds


def _threshold_steps(tab: Tab, count: int = 10) -> list[float]:
    """From a key on the slider to other words on the screen."""
    tab.value("document.querySelector('[role=slider]').focus()")
    shown = f"({ANSWER}).match(/threshold [\\d.]+/)?.[0]"
    seconds = []
    for _ in range(count):
        before = tab.value(shown)
        begin = time.perf_counter()
        tab.key("ArrowRight", 39)
        tab.key("ArrowRight", 39)  # the words have two digits
        tab.wait(f"{shown} !== {before!r}")
        seconds.append(time.perf_counter() - begin)
        tab.value(DRAWN)
    return seconds


def _memory(pid: int) -> dict[str, int]:
    """Bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def _multiplied(gaussians: GaussianMap, count: int) -> GaussianMap:
    """A map of this many Gaussians that looks alike."""
    rows = torch.arange(count) % len(gaussians)
    moved = 0.002 * torch.from_numpy(np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32))
    many = gaussians.select(rows)
    return replace(many, means=many.means + moved)


def _field(folder: Path) -> Path:
    """The synthetic tabletop's, by the default extractor."""
    scene = folder / "scene"
    record(scene, tabletop(), views=8, width=320, height=240, gaussians=GAUSSIANS)
    stream = scene / "stream"
    field = back_project(
        load_map(scene / "map.ply"), open_stream(stream), splat_from_map=load_alignment(scene / "alignment.yaml")
    )
    named = replace(field.provenance, map_path=str(scene / "map.ply"), stream=str(stream))
    replace(field, provenance=named).save(folder / "field.safetensors")
    return folder / "field.safetensors"
