"""Truth values of launch files in all usual spellings. Without ROS."""

from __future__ import annotations

import pytest

from feature_gs_ros.ros.runtime.launch_arguments import truth
from tests.errors import raises


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "yes", "Yes", "on", " true "])
def test_yes_in_any_spelling(word: str) -> None:
    assert truth("loop", word) is True


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "off"])
def test_no_in_any_spelling(word: str) -> None:
    assert truth("loop", word) is False


@pytest.mark.parametrize("word", ["", "maybe", "2", "t rue"])
def test_anything_else_is_refused_by_name(word: str) -> None:
    with raises("parameter.truth", "loop"):
        truth("loop", word)
