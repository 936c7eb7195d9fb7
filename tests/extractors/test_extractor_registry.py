"""Which extractors there are, what each needs, and one of a third party, installed from the documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_gs_ros.cli.extractors import extractors
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import extractor_names, extractor_requirements, make_extractor
from feature_gs_ros.extractors.weights import FOLDERS_VARIABLE, OFFLINE_VARIABLE
from tests.document_packages import install
from tests.errors import raises

DOCUMENT = Path(__file__).parents[2] / "docs/extractors.md"


@pytest.fixture
def edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's example as an installed package: a module and its metadata on the path."""
    code = install(tmp_path, "extractors.md", "Edges", "feature_gs_ros.extractors", monkeypatch)
    assert len([line for line in code.splitlines() if line.strip()]) < 30


def test_the_documents_extractor_works_by_entry_point(edges: None) -> None:  # noqa: ARG001
    assert "edges" in extractor_names()
    extractor = make_extractor("edges")
    image = np.zeros((8, 10, 3), dtype=np.uint8)
    image[:, 5:] = 100
    grid = extractor.extract(image)
    assert isinstance(grid, FeatureGrid)
    assert grid.values[4, :, 1].tolist() == [0, 0, 0, 0, 50, 50, 0, 0, 0, 0]
    similar = extractor.similarities(grid.values.reshape(-1, 2), torch.tensor([[0.0, 1.0]]))
    assert similar.max() == 1
    with raises("prompt.unknown"):
        extractor.embed(["mug"])
    with raises("extractor.unknown"):
        make_extractor("edges", cell=2)


def test_the_list_names_third_parties_without_importing_them(
    edges: None,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert extractors() == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("edges"))
    assert "third-party" in line
    assert "my_package:Edges" in line
    assert "my_package" not in sys.modules


def test_the_list_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    (tmp_path / "dinov2_vitb14_pretrain.pth").touch()
    assert extractors(json=True) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["extractors"]}
    assert rows["imagenet"]["ready"] is True
    assert rows["dinov2"]["ready"] is True
    assert rows["dinov2"]["weights"] == [str(tmp_path / "dinov2_vitb14_pretrain.pth")]
    assert rows["sam"]["ready"] is False
    assert "sam_vit_b_01ec64.pth (375 MB" in " ".join(rows["sam"]["missing"])
    assert extractors() == 0
    assert "demo_e200.ckpt (1,680 MB" in capsys.readouterr().out


def test_the_list_says_the_line_that_brings_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    assert extractors(json=True) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["extractors"]}
    assert "feature-gs extractors --download dinov2" in " ".join(rows["dinov2"]["missing"])
    assert f"put it into {tmp_path / 'checkpoints'}" in " ".join(rows["dinov3"]["missing"])
    radio = " ".join(rows["radio"]["for_words"])
    assert "--download ViT-gopt-16-SigLIP2-384.safetensors" in radio


def test_weights_are_downloaded_by_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/dinov2_vits14_pretrain.pth").touch()
    for name in ("dinov2", "dinov2_vits14_pretrain.pth"):  # there already: nothing is fetched
        assert extractors(download=name) == 0
        assert "Apache-2.0" in capsys.readouterr().out
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    with raises("extractor.weights", "sam_vit_b_01ec64.pth", OFFLINE_VARIABLE):
        extractors(download="sam")
    with raises("extractor.weights"):
        extractors(download="dinov3")
    with raises("extractor.unknown", "'color'"):
        extractors(download="color")


def test_every_extractor_of_the_package_tells_its_needs() -> None:
    for name in extractor_names():
        needs = extractor_requirements(name)
        assert needs is not None
        assert needs.about
        assert needs.dimension
        assert f"`{name}`" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "option"), [("color", {"cell": "nan"}), ("color", {"cell": 1.5}), ("precomputed", {"dimension": "3"})]
)
def test_an_option_of_another_kind_is_named(name: str, option: dict[str, object]) -> None:
    """YAML takes nan and 1e3 for words: the command line hands them on as they are."""
    with raises("extractor.option", f"option {next(iter(option))}="):
        make_extractor(name, **option)
    assert make_extractor("color", cell=4, space="rgb").dimension == 3


def test_conversion_by_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"a": torch.ones(3)}}, tmp_path / "w.ckpt")
    assert extractors(convert=tmp_path / "w.ckpt", out=tmp_path / "w.safetensors") == 0
    assert "wrote 1 tensors" in capsys.readouterr().out
    with raises("extractor.missing", "--out FILE"):
        extractors(convert=tmp_path / "w.ckpt")


@pytest.mark.slow
def test_no_extractors_library_is_imported_until_it_is_used() -> None:
    code = (
        "import sys, feature_gs_ros.cli.extractors as c; c.extractors();"
        "print([m for m in ('torchvision', 'open_clip', 'timm', 'transformers', 'segment_anything', 'xformers')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_torchvision_that_does_not_fit_is_no_obstacle(tmp_path: Path) -> None:
    """A torchvision whose import fails as a CUDA build's does beside a CPU torch, and a library that imports it."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\nfor name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: dets)\n"
    )
    (tmp_path / "needs_it.py").write_text("import torchvision\nworks = True\n")
    code = (
        "from feature_gs_ros.extractors.libraries import import_library\n"
        "try:\n    import torchvision\nexcept RuntimeError as error:\n    print(error)\n"
        "print(import_library('needs_it', 'needs-it').works)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.splitlines() == ["operator torchvision::nms does not exist", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise RuntimeError('operator torchvision::other does not exist')", "import absent"])
def test_a_library_that_stays_broken_is_named_with_its_mend(tmp_path: Path, fault: str) -> None:
    (tmp_path / "torchvision.py").write_text(fault)
    code = (
        "from feature_gs_ros.core.errors import ExtractorError\n"
        "from feature_gs_ros.extractors.libraries import import_library\n"
        "try:\n    import_library('torchvision', 'torchvision')\nexcept ExtractorError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "needs torchvision" in run.stdout
    assert "--index-url https://download.pytorch.org/whl/cpu" in run.stdout
