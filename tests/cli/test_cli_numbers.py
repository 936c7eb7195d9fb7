"""Numbers out of their range: one line that names option, value and range, exit code 2, before any work."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_gs_ros.cli.checks import check_number
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.identity.codes import make_codes
from feature_gs_ros.query.prompt import parse_pixels
from tests.command_line import run
from tests.errors import raises

TRAIN = ("train", "stream", "--out", "m.ply")
DISTILL = ("distill", "map.ply", "stream", "--out", "f", "--extractor", "color")
IDENTITY = ("identity", "map.ply", "stream", "--masks", "masks", "--out", "f")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (TRAIN, "--sh-degree 7"),
        (TRAIN, "--iterations 0"),
        (TRAIN, "--size 0"),
        (TRAIN, "--stereo -1"),
        (TRAIN, "--gaussians 0"),
        (TRAIN, "--picture-every 0"),
        (TRAIN, "--seed -1"),
        (TRAIN, f"--seed {10**400}"),
        (DISTILL, "--size 0"),
        (DISTILL, "--gamma nan"),
        (DISTILL, "--gamma inf"),
        (DISTILL, "--iterations -1"),
        ((*DISTILL, "--method", "train"), "--iterations 0"),
        (IDENTITY, f"--seed {2**63}"),
        (IDENTITY, "--merge-threshold nan"),
        (IDENTITY, "--merge-threshold 0"),
        (("instances", "field", "--out", "f"), "--seed -1"),
    ],
)
def test_numbers_out_of_range(
    words: tuple[str, ...], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the files exists: the numbers are looked at first."""
    monkeypatch.chdir(tmp_path)
    said = run(*words, *option.split(), code=2)
    (line,) = said.stderr.strip().splitlines()
    assert line.startswith(f"feature-gs: {option.split()[0]} ")
    assert "out of range; choose" in line
    assert list(tmp_path.iterdir()) == []


@given(value=st.one_of(st.integers(), st.floats()), least=st.integers(-5, 5), above=st.booleans())
def test_a_number_is_taken_if_and_only_if_it_is_in_range(value: float, least: int, above: bool) -> None:
    inside = not math.isnan(value) and (value > least if above else value >= least) and value <= 7
    try:
        check_number("--x", value, least, 7, above=above)
        taken = True
    except OptionError:
        taken = False
    assert taken == inside
    if value in (math.inf, -math.inf) or value != value:
        with pytest.raises(OptionError):
            check_number("--x", value, -math.inf)


def test_codes_of_no_numbers() -> None:
    for kind in ("orthogonal", "contrastive"):
        with raises("identity.range|identity.too-few"):
            make_codes(kind, 4, 0)


def test_pixels_are_finite_numbers() -> None:
    assert parse_pixels("1.5,2", 2) == [1.5, 2]
    for text in ("nan,2", "1,inf", "1", "1,2,3", "a,b"):
        with raises("prompt.value"):
            parse_pixels(text, 2)
