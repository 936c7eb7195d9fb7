"""``feature-gs warmup``."""

from __future__ import annotations

import pytest

from feature_gs_ros.cli.warmup import warmup
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer import get_backend
from tests.errors import raises

pytestmark = pytest.mark.slow


def test_a_card_that_is_not_here_is_compiled_for(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("warp")
    assert warmup(arch=("sm_87",)) == 0
    assert "sm_87: 8 modules" in capsys.readouterr().out


def test_the_cpu_is_walked(capsys: pytest.CaptureFixture[str]) -> None:
    assert warmup(backend="cpu") == 0
    assert "cpu" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hopper", "sm_42", "sm_", "9"])
def test_unknown_cards_are_named(name: str) -> None:
    pytest.importorskip("warp")
    with raises("backend.value|backend.unsupported", name):
        warmup(arch=(name,))


def test_a_card_that_is_missing_says_what_to_install() -> None:
    try:
        get_backend("cuda")
    except BackendError as error:
        reason = str(error)
        assert any(word in reason for word in ("pip install", "docs/gpu.md", "nvidia-smi"))
    else:
        pytest.skip("there is a card")
