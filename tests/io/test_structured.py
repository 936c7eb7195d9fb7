"""JSON and YAML from outside: whatever stands in them, a reader answers with its own error, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros.core.errors import FeatureGsError, StreamError
from feature_gs_ros.evaluation.protocols.lerf_ovs import read_polygons
from feature_gs_ros.identity.masks import SamMasks
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.coco_masks import CocoMasks
from feature_gs_ros.io.mask_shapes import decode_rle
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.io.messages.camera_info import load_calibration
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.io.structured import Table, parse_json, parse_yaml, read_table
from tests.errors import raises
from tests.memory_use import peak_megabytes

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
YAML_READERS: list[Callable[[Path], object]] = [load_alignment, load_labels, load_calibration]
SETUP = """
from pathlib import Path
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.io.messages.camera_info import load_calibration
"""


def _coco(path: Path) -> object:
    masks = CocoMasks(path)
    return [masks.load(name) for name in masks.names()]


def _sam(path: Path) -> object:
    masks = SamMasks(path.parent)
    return [masks.load(name) for name in masks.names()]


JSON_READERS: list[tuple[str, Callable[[Path], object], object]] = [
    ("alignment.json", load_alignment, {"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": 1.0}),
    (
        "cameras.json",
        lambda path: open_stream(path.parent),
        {"frames": [{
            "image": "a.png", "width": 4, "height": 3, "fx": 2.0, "fy": 2.0, "cx": 2.0, "cy": 1.5, "name": "a",
            "camera_from_world": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            "distortion": {"model": "plumb_bob", "coefficients": [0.1, 0, 0, 0]},
        }]},
    ),
    (
        "transforms.json",
        lambda path: open_stream(path.parent),
        {"w": 4, "h": 3, "fl_x": 2.0, "cx": 2, "k1": 0.1, "camera_model": "OPENCV", "applied_scale": 1.0,
         "frames": [{"file_path": "a.png", "transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}]},
    ),
    (
        "annotations.json",
        _coco,
        {"images": [{"id": 1, "file_name": "a.png", "height": 2, "width": 3}],
         "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [2, 3], "counts": [1, 5]}}],
         "categories": [{"id": 1, "name": "mug"}]},
    ),
    ("a.json", _sam, [{"segmentation": {"size": [2, 3], "counts": [1, 5]}}]),
    (
        "polygons.json",
        read_polygons,
        {"info": {"height": 8, "width": 8}, "objects": [{"category": "mug", "segmentation": [[1, 1], [5, 1], [5, 5]]}]},
    ),
]  # fmt: skip
HOSTILE = [
    None, True, -1, 0, 3.5, 10**400, -(10**400), 2**63, float("nan"), float("inf"), "", "x", "\x1b[31m", [], [[]], {},
    [None], {"a": 1}, [10**400], ["x"], [[1], [2, 3]], "9" * 5000, [[[[[[1]]]]]],
]  # fmt: skip


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, entry in below for place in _places(entry, (*path, key)))]


def _with(value: object, path: tuple[object, ...], new: object) -> object:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    copy[path[0]] = _with(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize(("name", "read", "good"), JSON_READERS, ids=[reader[0] for reader in JSON_READERS])
def test_any_value_in_any_place_is_read_or_refused(
    name: str, read: Callable[[Path], object], good: object, tmp_path: Path
) -> None:
    messages: set[str] = set()
    for place in _places(good):
        for value in HOSTILE:
            (tmp_path / name).write_text(json.dumps(_with(good, place, value)))
            try:
                read(tmp_path / name)
            except FeatureGsError as error:
                messages.add(str(error))
    assert messages
    assert all(len(message) < 1500 and message.isprintable() for message in messages)


@pytest.mark.parametrize(("name", "read", "good"), JSON_READERS, ids=[reader[0] for reader in JSON_READERS])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 70 + "]" * 70, "", "\xff", "{", "9" * 10_000])
def test_json_that_is_none_or_too_deep_is_refused(
    name: str, read: Callable[[Path], object], good: object, text: str, tmp_path: Path
) -> None:
    del good
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(FeatureGsError):
        read(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["load_alignment", "load_labels", "load_calibration"])
def test_aliases_that_repeat_without_end_are_refused_at_once(reader: str, tmp_path: Path) -> None:
    (tmp_path / "laughs.yaml").write_text(LAUGHS)
    grown, outcome = peak_megabytes(SETUP, f"{reader}(Path({str(tmp_path / 'laughs.yaml')!r}))")
    assert outcome.endswith(".syntax")
    assert grown < 20


@pytest.mark.parametrize("read", YAML_READERS)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "? " * 2000, "a: " + "{a: " * 300, "- " * 5000, "!!python/object/apply:os.system [ls]",
        "a: !!int x", "a: 2000-99-99", "a: !!binary '*'", "? [a]\n: b", "? {a: b}\n: c", "a: 1\na: 2", "\0",
        "!!timestamp x", "a: !<tag:x> y", "a: " + "9" * 10_000, "a: .inf\nb: .nan", "%YAML 9.9\n---\na", "a: &b", "5",
    ],
    ids=range(19),
)  # fmt: skip
def test_yaml_that_is_none_or_too_deep_is_refused(read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(FeatureGsError) as caught:
        read(tmp_path / "it.yaml")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("read", YAML_READERS)
def test_pipes_and_names_that_no_file_can_have_are_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, Path("a\0b"), tmp_path / ("x" * 5000)):
        with pytest.raises(FeatureGsError):
            read(path)


@given(st.text(alphabet="[]{}:,-?&*!|>'\"%@`#\n ab1.~<=\t", max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_text_gets_past_the_parsers_errors(text: str) -> None:
    codes: set[str] = set()
    for parse in (parse_yaml, parse_json):
        try:
            parse(text, "it", StreamError)
        except StreamError as error:
            codes.add(error.code)
    assert codes <= {"stream.syntax"}


def test_a_table_takes_what_is_of_the_kind() -> None:
    table = Table({"n": "1e-05", "w": 640.0, 3: "x", "m": [[1, 2], [3, 4]], "t": ["a"]}, "it", StreamError)
    assert table.number("n") == 1e-5
    assert table.whole("w") == 640
    assert table.text("3") == "x"
    assert table.numbers("m", 4) == (1.0, 2.0, 3.0, 4.0)
    assert table.array("m", (2, 2)).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert table.texts("t") == ("a",)
    assert table.number("none", 2.5) == 2.5
    assert table.choice("3", ("x", "y")) == "x"
    for ask in (
        lambda: table.number("none"),
        lambda: table.whole("w", most=100),
        lambda: table.numbers("m", 3),
        lambda: table.choice("3", ("y",)),
        lambda: table.table("m"),
        lambda: table.tables("t"),
        lambda: table.only(["n"]),
        lambda: table.text("w"),
    ):
        with pytest.raises(StreamError) as caught:
            ask()
        assert caught.value.code == "stream.value"


def test_large_files_are_refused_by_their_size(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StreamError) as caught:
        read_table(tmp_path / "large.json", StreamError)
    assert caught.value.code == "stream.unreadable"


@pytest.mark.parametrize(
    "counts", [[float("nan")], [float("inf"), 6], [10**400], ["6"], [None], [-1, 7], [5.5, 0.5], "~~~"]
)
def test_run_lengths_that_are_none(counts: list[object] | str) -> None:
    with pytest.raises(FeatureGsError):
        decode_rle(counts, (2, 3), "it")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "number", ["1" + ":0" * 100_000, "1" + ":0" * 100_000 + ".0", "0x" + "f" * 100_000, "1" + "_" * 500_000 + "1"]
)
def test_numbers_of_yaml_end(number: str, tmp_path: Path) -> None:
    """Those of base sixty take time by the square of their length, and as floats end in an OverflowError."""
    path = tmp_path / "labels.yaml"
    path.write_text(f"mug: {number}\n")
    with raises("evaluation.syntax", "digits"):
        load_labels(path)
    path.write_text("mug: 1:0\n")
    assert load_labels(path) == {60: "mug"}


def test_json_of_empty_lists_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "alignment.json"
    path.write_text("[" + "[]," * 3_000_000 + "[]]")
    with raises("alignment.size", "3000002"):
        load_alignment(path)
