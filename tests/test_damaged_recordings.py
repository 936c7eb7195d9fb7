"""Recordings as they come: what is damaged in them costs its own view, and what can't go well is said at once."""

from __future__ import annotations

import json
from pathlib import Path

from feature_gs_ros.field import FeatureField
from tests.command_line import run
from tests.little_scene import FRAMES, write_scene


def test_a_damaged_mask_costs_its_own_view(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    (scene / "masks" / "0001.png").write_bytes(b"no picture at all")
    lifted = run(
        "backproject", scene / "map.ply", scene, "--out", scene / "field", "--json",
        "--masks", scene / "masks", "--labels", scene / "labels.yaml",
    )  # fmt: skip
    told = json.loads(lifted.stdout)
    assert told["views"] == len(FRAMES) - 1
    (reason,) = told["skipped"]
    assert "0001.png' is no PNG" in reason
    distilled = run(
        "distill", scene / "map.ply", scene, "--out", scene / "distilled", "--extractor", "labels",
        "--option", f"masks={scene / 'masks'}", "--option", f"labels={scene / 'labels.yaml'}", "--json",
    )  # fmt: skip
    assert json.loads(distilled.stdout)["views"] == len(FRAMES) - 1
    assert FeatureField.load(scene / "distilled").provenance.frames == tuple(n for n in FRAMES if n != "0001")
