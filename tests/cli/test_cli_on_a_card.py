"""Commands that ask a field of a file, with --backend: its features go to that card, played on torch's CPU device."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from played_card import CARD, PlayedBackend, played_card
from test_cli_answers import write_field

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.page.colors import FEATURES, base_colors
from feature_gs_ros.page.opening import open_content
from tests.command_line import run
from tests.little_scene import write_scene

pytest.importorskip("warp")
pytestmark = pytest.mark.slow

NAME = "cuda:7"  # a backend is made once, and kept under its name


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FeatureField]]:
    """A card of this name: what mixes its tensors with the host's fails. Gives the fields that went there."""
    backend = PlayedBackend()
    played = ModuleType("played_cards")
    played.make_backend = lambda _: backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "played_cards", played)
    moved: list[FeatureField] = []
    on: Callable[[FeatureField, torch.device], FeatureField] = FeatureField.on

    def remember(field: FeatureField, device: torch.device) -> FeatureField:
        moved.append(on(field, device))
        return moved[-1]

    monkeypatch.setattr(FeatureField, "on", remember)
    with monkeypatch.context() as patch:
        patch.setattr(rasterizer, "CUDA_PACKAGE", "played_cards")
        rasterizer.get_backend(NAME)
    with played_card(monkeypatch):
        yield moved


@pytest.fixture
def field(tmp_path: Path) -> Path:
    return write_field(write_scene(tmp_path), lambda means: means[:, 0] > 0)


def test_a_question_is_worked_out_on_the_card_that_is_named(field: Path, card: list[FeatureField]) -> None:
    words = ("query", field, "red", "--negative", "blue", "--json")
    expected = json.loads(run(*words).stdout)
    assert [moved.features.device.type for moved in card] == ["cpu"]
    cloud = field.parent / "found.ply"
    found = json.loads(run(*words, "--cloud", cloud, "--backend", NAME).stdout)
    assert card[-1].features.device == CARD
    assert (found["state"], found["gaussians"]) == (expected["state"], expected["gaussians"])
    assert found["objects"][0]["center"] == pytest.approx(expected["objects"][0]["center"], abs=1e-5)
    assert cloud.exists()


def test_a_field_is_evaluated_on_the_card_that_is_named(field: Path, card: list[FeatureField]) -> None:
    scene = field.parent
    words = (
        "evaluate", "segmentation", field, "--stream", scene, "--masks", scene / "masks",
        "--labels", scene / "labels.yaml", "--prompt", "left=blue", "--prompt", "right=red", "--json",
    )  # fmt: skip
    expected = json.loads(run(*words, "--backend", "cpu").stdout)
    found = json.loads(run(*words, "--backend", NAME).stdout)
    assert card[-1].features.device == CARD
    assert found["miou"] == pytest.approx(expected["miou"], abs=1e-3)


def test_the_page_asks_on_the_card_that_is_named(field: Path, card: list[FeatureField]) -> None:
    content = open_content(field, field.parent, backend=NAME)
    assert content.segmenter is not None
    assert card[-1].features.device == CARD
    assert int(content.segmenter.ask(["red"])[0].mask.sum()) > 0
    assert base_colors(content, content.gaussians, FEATURES).shape == (len(content.gaussians), 3)
