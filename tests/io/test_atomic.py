"""Files appear whole or not at all: also on a full disk, behind a link, and with the mode that they had."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_map

from feature_gs_ros.affordance.library import Library
from feature_gs_ros.affordance.source import Source
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.editing import Delete, Edit, EditStack, Selection
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.extractors.weights import convert_checkpoint
from feature_gs_ros.io.atomic import ABANDONED, atomic_path, remove_abandoned
from tests.disk import largest_file
from tests.errors import raises

COUNT = 2000
MAP = random_map(4, COUNT)


def save_field(path: Path) -> None:
    identity = ExtractorIdentity("color")
    counts = torch.ones(COUNT, dtype=torch.int32)
    FeatureField(torch.rand(COUNT, 3), torch.ones(COUNT), counts, identity, Provenance(MAP.checksum)).save(path)


def save_edits(path: Path) -> None:
    rows = torch.arange(COUNT // 2)
    stack = EditStack(MAP)
    stack.push(Edit(Delete(), "half", Selection(rows, torch.ones(len(rows)))))
    stack.save(path)


def save_weights(path: Path) -> None:
    source = path.with_name("weights.pth")
    if not source.exists():
        torch.save({"layer": torch.rand(COUNT)}, source)
    convert_checkpoint(source, path)


def save_library(path: Path) -> None:
    image, labels = torch.zeros(64, 64, 3, dtype=torch.uint8), torch.zeros(64, 64, dtype=torch.uint8)
    source = Source("cup", ("grip",), "", image, labels, torch.rand(4, 3), torch.ones(4, 1))
    Library(ExtractorIdentity("color"), 0.5, (source,)).save(path)


@pytest.mark.parametrize(
    ("save", "code"),
    [
        (save_field, "field.unwritable"),
        (save_edits, "edit.unwritable"),
        (save_weights, "extractor.unwritable"),
        (save_library, "affordance.unwritable"),
    ],
)
def test_a_full_disk_is_an_error_and_leaves_the_old_file(
    save: Callable[[Path], None], code: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    save(path)
    before = path.read_bytes()
    files = sorted(tmp_path.iterdir())
    with largest_file(4096), raises(code):
        save(path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files
    assert np.frombuffer(before, np.uint8).size > 4096  # it would not have fitted


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    """A field on a large disk, linked from the project: saving doesn't move it."""
    (tmp_path / "disk").mkdir()
    save_field(tmp_path / "disk" / "field")
    before = (tmp_path / "disk" / "field").read_bytes()
    (tmp_path / "field").symlink_to(Path("disk") / "field")
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "new")
    save_field(tmp_path / "field")
    save_field(tmp_path / "new")
    assert (tmp_path / "field").readlink() == Path("disk") / "field"
    assert (tmp_path / "disk" / "field").read_bytes() != before
    assert not (tmp_path / "disk" / "new").is_symlink()
    assert FeatureField.load(tmp_path / "new").features.shape == (COUNT, 3)


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "field"
    before = os.umask(0o027)
    try:
        save_field(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        save_field(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ñ" * 127)  # 254 of 255 bytes
    save_field(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_a_library_leaves_beside_the_file_goes_too(tmp_path: Path) -> None:
    """safetensors writes a temporary file of its own, and renames it; a failure may leave it."""
    target = tmp_path / "field"

    def write(error: type[BaseException] | None) -> None:
        with atomic_path(target) as temporary:
            temporary.with_name(".tmpAbCdEf").write_bytes(b"half a field")
            if error:
                raise error
            temporary.write_bytes(b"a field")

    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            write(error)
        assert not list(tmp_path.iterdir())
    write(None)
    assert [file.name for file in tmp_path.iterdir()] == ["field"]


WRITER = """
import sys
from feature_gs_ros.io.atomic import atomic_path

with atomic_path(sys.argv[1]) as temporary:
    temporary.with_name(".tmpAbCdEf").write_bytes(b"half a field")
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "field"
    target.write_bytes(b"the old field")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        begun = set(tmp_path.iterdir())
        remove_abandoned(tmp_path)
        assert set(tmp_path.iterdir()) == begun > {target}, "it is being written"
    finally:
        writer.kill()
        writer.communicate()
    assert set(tmp_path.iterdir()) == begun, "nobody could remove it"
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"the old field"


def test_what_no_lock_tells_of_is_removed_when_it_is_old(tmp_path: Path) -> None:
    """Files of earlier versions; and nothing of anybody else's."""
    (tmp_path / ".field.abcdefgh.part").write_bytes(b"left")
    (tmp_path / ".field.ijklmnop.part").write_bytes(b"perhaps being written")
    (tmp_path / ".film.part").write_bytes(b"another program's")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".link.abcdefgh.part").symlink_to(tmp_path / "elsewhere")
    for name in (".field.abcdefgh.part", ".film.part"):
        os.utime(tmp_path / name, (time.time() - 2 * ABANDONED,) * 2)
    remove_abandoned(tmp_path)
    kept = {".field.ijklmnop.part", ".film.part", ".link.abcdefgh.part", "elsewhere"}
    assert {file.name for file in tmp_path.iterdir()} == kept
