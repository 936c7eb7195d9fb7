"""PLY headers that lie, break off or are no text: refused by name, with nothing allocated."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from splat_samples import random_parameters, write_ply

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.io.splats.registry import load_map

pytestmark = pytest.mark.slow

NAMES = list(random_parameters(degree=0).columns())
ROW = 4 * len(NAMES)  # bytes


def ply(*lines: str, names: list[str] = NAMES, encoding: str = "binary_little_endian", body: bytes = b"") -> bytes:
    """A header with ``lines`` before the properties of its last element."""
    properties = [f"property float {name}" for name in names]
    return "\n".join(["ply", f"format {encoding} 1.0", *lines, *properties, "end_header", ""]).encode() + body


def error_of(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "hostile.ply"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(MapError) as caught:
        load_map(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000 + 40 * len(content)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("count", [11, 10**6, 10**12, 10**18 - 1])
def test_more_rows_than_bytes(tmp_path: Path, encoding: str, count: int) -> None:
    body = b"0 " * 10 * len(NAMES) if encoding == "ascii" else bytes(10 * ROW)
    content = ply(f"element vertex {count}", encoding=encoding, body=body)
    message = error_of(tmp_path, content)
    assert "truncated" in message
    if encoding == "ascii":
        assert f"need {2 * count * len(NAMES)} bytes of text or more, {len(body)} are there" in message
    else:
        end = len(content) - len(body) + count * ROW
        assert f"end at byte {end}, the file has {len(content)} (10 whole rows)" in message


def test_one_byte_short(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "map.ply", random_parameters(5).columns())
    assert "(4 whole rows)" in error_of(tmp_path, path.read_bytes()[:-1])


def test_text_that_ends_early_or_is_no_number(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "map.ply", random_parameters(5).columns(), text=True)
    lines = path.read_text().splitlines(keepends=True)
    short = "".join([*lines[:-1], lines[-1].split()[0], " " * 900])
    assert "rows from 0 to 4" in error_of(tmp_path, short.encode())
    words = lines[-1].split()
    words[3] = "0x1F"
    assert "could not convert string '0x1F'" in error_of(tmp_path, "".join([*lines[:-1], " ".join(words)]).encode())
    missing = "".join(lines[:-1]) + "\n" * 900
    assert "4 of 5 rows of 'vertex' are there" in error_of(tmp_path, missing.encode())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["element vertex -3"], "'element vertex -3' at byte 36"),
        (["element vertex 3.5"], "'element vertex 3.5' at byte 36"),
        (["element vertex 1e9"], "is unknown, repeated or in the wrong order"),
        (["element vertex " + "9" * 400], "is unknown, repeated or in the wrong order"),
        (["element vertex ٣"], "is unknown, repeated or in the wrong order"),
        (["element vertex"], "'element vertex' at byte 36"),
        (["element vertex 1", "element vertex 1"], "'element vertex 1' at byte 53"),
        (["property float x", "element vertex 1"], "'property float x' at byte 36"),
        (["element vertex 1", "property float x"], "'property float x'"),
        (["element vertex 1", "property list uchar float x"], "'property float x'"),
        (["element vertex 1", "property list uchar x"], "'property list uchar x'"),
        (["element vertex 1", "property list float129 int x"], "unknown"),
        (["element vertex 1", "property float16 half"], "'property float16 half'"),
        (["element vertex 1", "format ascii 1.0"], "'format ascii 1.0' at byte 53"),
        (["element vertex 1", "texture wood.png"], "'texture wood.png'"),
        (["element vertex 0"], "holds no Gaussians"),
        (["element face 1"], "'vertex' lacks x, y, z"),
        (["element vertex 0", "property list uchar float weights"], "holds lists"),
        (["element face 1", "property list uchar int corners", "element vertex 1"], "put 'vertex' first"),
        (["element face 1", "property list uchar int corners", "element vertex 999999999999"], "put 'vertex' first"),
        (["element face 0", "property list uchar int corners", "element vertex 999999999999"], "truncated"),
    ],
)
def test_a_header_line_that_makes_no_sense(tmp_path: Path, lines: list[str], message: str) -> None:
    assert message in error_of(tmp_path, ply(*lines, body=bytes(10 * ROW)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ply("element vertex 1")[:-12], "no PLY header from 'ply' to 'end_header'"),
        (b"ply\n", "its first 4 bytes hold no PLY header"),
        (b"ply\n" + b"comment " + b"x" * 2_000_000 + b"\nend_header\n", "its first 1048576 bytes hold no PLY header"),
        (b"ply\nelement vertex 1\nend_header\n", "no line 'format"),
        (b"ply\nformat binary_middle_endian 1.0\nend_header\n", "'format binary_middle_endian 1.0' at byte 4"),
        (b"ply\nformat ascii 2.0\nend_header\n", "'format ascii 2.0' at byte 4"),
        (b"ply\nformat ascii 1.0\ncomment Gr\xfc\xdfe\nend_header\n", "byte 31 of its header, 0xfc, is not text"),
        (b"ply\n" + b"\xff" * 300, "no PLY header"),
    ],
)
def test_a_header_that_breaks_off_or_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in error_of(tmp_path, content)


def test_an_element_without_properties_takes_no_time(tmp_path: Path) -> None:
    content = ply("element vertex 999999999999999999", names=[], body=b"")
    assert "'vertex' lacks x, y, z" in error_of(tmp_path, content)
    content = ply("element nothing 999999999999999999", "element vertex 1", body=bytes(ROW))
    assert "none of the 1 Gaussians" in error_of(tmp_path, content)  # zeros: read, but without a rotation


def test_a_header_of_many_names_is_read_in_time(tmp_path: Path) -> None:
    names = [f"p{k}" for k in range(40_000)]
    elements = [f"element e{k} 0" for k in range(40_000)]
    start = time.process_time()  # of this process: others may be busy
    assert "'vertex' lacks x" in error_of(tmp_path, ply("element vertex 1", names=names, body=bytes(160_000)))
    assert "(40001 in all)" in error_of(tmp_path, ply(*elements, "element vertex 9", encoding="ascii"))
    assert time.process_time() - start < 30  # comparing each with each takes minutes


def test_every_byte_order_is_checked_against_numpy(tmp_path: Path) -> None:
    """A hand-made big-endian row with an integer and a double property."""
    names = [name for name in NAMES if name not in ("x", "opacity")]
    row = np.zeros(1, [("x", ">i2"), ("opacity", ">f8"), *((name, ">f4") for name in names)])
    row["x"], row["opacity"], row["rot_0"], row["y"] = -300, 0.0, 2.0, 1.5
    header = ply(
        "element vertex 1", "property short x", "property double opacity", names=names, encoding="binary_big_endian"
    )
    (tmp_path / "map.ply").write_bytes(header + row.tobytes())
    gaussians = load_map(tmp_path / "map.ply")
    assert gaussians.means.tolist() == [[-300.0, 1.5, 0.0]]
    assert gaussians.opacities.tolist() == [0.5]
    assert gaussians.scales.tolist() == [[1.0, 1.0, 1.0]]
