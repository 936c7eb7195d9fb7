"""Why a card can't be used, each reason played: `auto` takes the CPU and says why once, `cuda` says what to install."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer import cuda, get_backend
from feature_gs_ros.rasterizer.cuda import probe

Patch = pytest.MonkeyPatch


def play_card(patch: Patch, capability: tuple[int, int] = (8, 7), seen_by_warp: bool = True) -> None:
    """A card that torch sees, and Warp or not."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    patch.setattr(torch.cuda, "get_device_name", lambda _: "Played")
    patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"])
    runtime = SimpleNamespace(sees_card=lambda _: seen_by_warp, VERSION="1.19.0")
    play_imports(patch, installed=True, load=lambda _: runtime)


def play_imports(patch: Patch, installed: bool, load: Callable[[str], Any]) -> None:
    util = SimpleNamespace(find_spec=lambda _: object() if installed else None)
    patch.setattr(probe, "importlib", SimpleNamespace(util=util, import_module=load))


def fails(name: str) -> Any:
    raise ImportError(f"no {name}")


def no_warp(patch: Patch) -> None:
    play_card(patch)
    play_imports(patch, installed=False, load=fails)


def cpu_torch(patch: Patch) -> None:
    play_card(patch)
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", None)


def no_driver(patch: Patch) -> None:
    cpu_torch(patch)
    patch.setattr(torch.version, "cuda", "13.0")


def old_driver(patch: Patch) -> None:
    play_card(patch, seen_by_warp=False)


def old_card(patch: Patch) -> None:
    play_card(patch, capability=(7, 0))


def torch_of_other_cards(patch: Patch) -> None:
    play_card(patch, capability=(12, 0))
    patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90a"])


def broken_warp(patch: Patch) -> None:
    play_card(patch)
    play_imports(patch, installed=True, load=fails)


REASONS: dict[Callable[[Patch], None], str] = {
    no_warp: r'warp-lang is not installed: pip install "feature_gs_ros\[gpu\]"',
    cpu_torch: "torch is a CPU build: install one for CUDA, see docs/gpu.md",
    no_driver: "torch finds no NVIDIA GPU: look at nvidia-smi",
    old_driver: r"can't use the driver: releases from 1.18 on need R580 or newer.*warp-lang<1.18",
    old_card: "Played has compute capability 7.0, 7.5 is needed",
    torch_of_other_cards: r"this torch is built for sm_80, sm_90a, not for Played \(sm_120\)",
    broken_warp: "warp-lang can't be imported",
}


@pytest.fixture
def forgetful() -> Any:
    """Backends are made anew, before and after."""
    rasterizer.backend_named.cache_clear()
    yield
    rasterizer.backend_named.cache_clear()


@pytest.mark.parametrize("play", REASONS, ids=lambda play: play.__name__)
@pytest.mark.usefixtures("forgetful")
def test_each_reason_is_said_once_and_how_to_fix_it(
    play: Callable[[Patch], None], monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    play(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert get_backend("auto").name == "cpu"
        assert get_backend("auto").name == "cpu"
    said = [record for record in caplog.records if "rasterising on the CPU" in record.message]
    assert len(said) == 1
    with pytest.raises(BackendError, match=REASONS[play]) as refused:
        get_backend("cuda")
    assert refused.value.code == "backend.unusable"


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 7), (8, 9), (9, 0), (12, 0)])
def test_torch_runs_on_cards_of_its_generations_and_compiles_on_newer_ones(
    capability: tuple[int, int], monkeypatch: Patch
) -> None:
    play_card(monkeypatch, capability)
    assert probe.why_unusable() is None


def test_a_card_that_is_all_right_is_used_and_others_are_not_there(monkeypatch: Patch) -> None:
    play_card(monkeypatch)
    assert probe.why_unusable() is None
    assert cuda.usable()
    reason = probe.why_unusable(1)
    assert reason is not None
    assert "there is no card 1" in reason


@pytest.mark.parametrize(("present", "level"), [(True, logging.WARNING), (False, logging.INFO)])
def test_who_has_a_card_hears_why_it_is_not_used(
    present: bool, level: int, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    no_warp(monkeypatch)
    monkeypatch.setattr(cuda, "card_present", lambda: present)
    with caplog.at_level(logging.INFO):
        assert not cuda.usable()
    assert [record.levelno for record in caplog.records] == [level]
