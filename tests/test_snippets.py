"""The Python that README and docs show runs, on a small scene and a field of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import feature_gs_ros as fgs
from feature_gs_ros.backprojection.field import FeatureField

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def snippets() -> list[tuple[str, str]]:
    """Document and code of every Python block; programs that are ROS nodes run in tests/ros."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [(document.name, code) for document in documents for code in BLOCK.findall(document.read_text("utf-8"))]
    return [(document, code) for document, code in blocks if "feature_gs_ros.ros." not in code]


@pytest.fixture(scope="module")
def names(small_scene: Path) -> dict[str, Any]:
    """What the documents' snippets take as given."""
    gaussians = fgs.load_map(small_scene / "map.ply")
    alignment = fgs.load_alignment(small_scene / "alignment.yaml")
    stream = fgs.open_stream(small_scene / "stream")
    extractor = fgs.make_extractor("imagenet")
    field: FeatureField = fgs.back_project(gaussians, stream, extractor, splat_from_map=alignment, every=2)
    frame = next(iter(stream.frames()))
    known = field.provenance.views[0]
    height, width = frame.image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : height // 2, width // 3 : width // 2] = 1
    return {
        "gaussians": gaussians,
        "field": field,
        "extractor": extractor,
        "segmenter": fgs.Segmenter(gaussians, field, extractor),
        "map_from_splat": alignment.inverse(),
        "stream": stream,
        "frame": frame,
        "image": frame.image,
        "mask": mask,
        "height": height,
        "width": width,
        **{"left": 10, "top": 10, "right": 40, "bottom": 40},
        "camera": known.camera,
        "camera_from_splat": known.camera_from_splat,
        "view": fgs.view(gaussians, known.camera, known.camera_from_splat),
        "values": torch.rand(len(gaussians), 4),
        **{"u": width // 2, "v": height // 2},
        **dict(zip("xyz", alignment.inverse().apply(gaussians.means[0].numpy()), strict=True)),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("document", "code"), snippets(), ids=lambda value: value if value.endswith(".md") else "")
def test_what_the_documents_show_runs(
    document: str, code: str, names: dict[str, Any], small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("map.ply", "stream", "alignment.yaml"):
        (tmp_path / name).symlink_to(small_scene / name)
    monkeypatch.chdir(tmp_path)
    if document == "identity.md":
        names = {**names, "field": identity_field(small_scene)}
    exec(compile(code, document, "exec"), dict(names))


def identity_field(small_scene: Path) -> FeatureField:
    """A field of identity codes of the scene's masks, as `feature-gs identity` makes it."""
    from command_line import run as run_command

    out = small_scene / "identities.safetensors"
    if not out.is_file():
        scene = [str(small_scene / name) for name in ("map.ply", "stream")]
        options = {"--masks": "masks", "--labels": "labels.yaml", "--alignment": "alignment.yaml"}
        words = [word for option, name in options.items() for word in (option, str(small_scene / name))]
        run_command("identity", *scene, *words, "--out", str(out))
    return FeatureField.load(out)
