"""The library's door: the public names, how little importing them takes, and the examples as a user runs them."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import feature_gs_ros

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(*words: str) -> str:
    """A Python of its own, as a user starts it; what it prints."""
    end = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert end.returncode == 0, end.stderr
    return end.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numba', 'numpy', 'cv2', 'scipy', 'sklearn'}"
    assert run("-c", f"import sys, feature_gs_ros; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in feature_gs_ros.__all__:
        assert getattr(feature_gs_ros, name) is not None
    assert set(feature_gs_ros.__all__) <= set(dir(feature_gs_ros))
    with pytest.raises(AttributeError):
        _ = feature_gs_ros.no_such_name


def test_there_is_one_version() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("version") == feature_gs_ros.__version__
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == feature_gs_ros.__version__


@pytest.mark.slow
def test_the_examples_find_the_mug(small_scene: Path) -> None:
    scene = [str(small_scene / name) for name in ("map.ply", "stream", "alignment.yaml")]
    assert "'coffee mug' found" in run(str(EXAMPLES / "backproject.py"), *scene, "coffee mug")
    assert "'red'" in run(str(EXAMPLES / "own_extractor.py"), *scene)


@pytest.mark.slow
def test_the_example_saves_what_it_finds(small_scene: Path, tmp_path: Path) -> None:
    gaussians = feature_gs_ros.load_map(small_scene / "map.ply")
    alignment = feature_gs_ros.load_alignment(small_scene / "alignment.yaml")
    stream = feature_gs_ros.open_stream(small_scene / "stream")
    field = feature_gs_ros.back_project(gaussians, stream, "color", splat_from_map=alignment)
    field.save(tmp_path / "field.safetensors")
    out = tmp_path / "red.ply"
    files = [tmp_path / "field.safetensors", small_scene / "map.ply"]
    printed = run(str(EXAMPLES / "query_and_save.py"), *map(str, files), "red", str(out), "blue")
    assert ("'red' found" in printed) == out.is_file()
    if out.is_file():
        assert 0 < len(feature_gs_ros.load_map(out)) < len(gaussians)
