"""``make demo``: the main job from a recording to answers, by the commands that a user would type."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

from feature_gs_ros.cli import main


def commands(folder: Path) -> list[list[str]]:
    """What the demo runs, in order."""
    scene, field, pictures = folder / "scene", folder / "field.safetensors", folder / "pictures"
    alignment = ["--alignment", str(scene / "alignment.yaml")]
    return [
        ["synth", str(scene)],
        ["info", str(scene / "stream")],
        ["backproject", str(scene / "map.ply"), str(scene / "stream"), "--out", str(field), *alignment, "--every", "2"],
        [
            "query", str(field), "coffee mug",
            "--cloud", str(pictures / "mug.ply"), "--picture", str(pictures / "mug.png"),
        ],
        ["query", str(field), "bottle", "--picture", str(pictures / "bottle.png")],
        ["query", str(field), "toaster", "--picture", str(pictures / "toaster.png")],
        [
            "evaluate", "segmentation", str(field), "--stream", str(scene / "stream"),
            "--masks", str(scene / "masks"), "--labels", str(scene / "labels.yaml"),
            "--prompt", "mug=coffee mug",
        ],
    ]  # fmt: skip


def run(folder: Path) -> int:
    """Run the demo into a folder; the exit code of the first command that fails, else 0."""
    start = time.perf_counter()
    shutil.rmtree(folder / "scene", ignore_errors=True)  # of an earlier run
    for command in commands(folder):
        print(f"\n$ feature-gs {shlex.join(command)}", flush=True)
        try:
            main(command)
        except SystemExit as end:
            if end.code:
                return int(end.code)
    print(f"\n{time.perf_counter() - start:.0f} s; look at the pictures in {folder / 'pictures'}")
    print(f"see it in a browser: {Path(sys.executable).parent / 'feature-gs'} view {folder / 'field.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
