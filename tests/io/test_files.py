"""File names made of names from outside, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_gs_ros.io.files import MAX_NAME, file_name_of, is_file, open_regular, read_regular

HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "\0", "-rf", ".hidden", "a\nb", "\x1b[2J",
    "x" * 999,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    made = tmp_path / f"{file_name_of(name)}.png"
    made.write_text("x")
    assert [made] == list(tmp_path.iterdir())


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_files_can_have(name: str) -> None:
    made = file_name_of(name)
    assert 0 < len(made.encode()) <= MAX_NAME
    assert Path("folder", made).parts == ("folder", made)
    assert made[0] not in ".-"
    assert made.isprintable()
    assert file_name_of(made) == made


@pytest.mark.parametrize("name", ["0001", "1700000000000000000_stereo_left", "1 coffee mug", "café_猫", "a.b+c@d=e-f"])
def test_plain_names_are_kept(name: str) -> None:
    assert file_name_of(name) == name


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link", limit=7) == b"content"
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - of different numbers
            open_regular(path)
        assert str(path) in str(caught.value)
    with pytest.raises(OSError, match="at most 6"):
        read_regular(tmp_path / "file", limit=6)
    assert not is_file(tmp_path / ("x" * 5000))
    assert is_file(tmp_path / "link")
