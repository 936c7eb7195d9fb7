"""Saving replaces fields, and nothing else that is kept in data_dir; killed writers leave nothing for good."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.editing import EditStack
from ros.harness import ACTIVATE, CONFIGURE, Starter

WRITER = """
import sys, time
from feature_gs_ros.io.atomic import atomic_path

with atomic_path(sys.argv[1]) as temporary:
    temporary.with_name(".tmpAbCdEf").write_bytes(b"half a field")
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_node_that_is_to_save_at_the_end_says_at_once_that_it_cannot(robot, start: Starter):
    """The first test: before the node of the others is there."""
    begun = start.data / ".other.abcdefgh.part"  # by a writer that was killed
    begun.mkdir(parents=True)
    (begun / "new.part").write_bytes(b"half a field")
    (start.data / "field.safetensors").write_bytes(b"somebody's")
    node = start.feature_map(save_on_deactivate=True)
    assert robot.change_state(CONFIGURE)
    assert not robot.change_state(ACTIVATE)
    assert "is there and is no learned field" in node.log.read_text()
    assert node.stop() == 0
    assert not begun.exists()
    assert (start.data / "field.safetensors").read_bytes() == b"somebody's"


@pytest.fixture(scope="module")
def node(start_once: Starter):
    node = start_once.active()
    yield node
    assert node.running
    assert "Traceback" not in node.log.read_text()


@pytest.fixture
def data(start_once: Starter, node) -> Path:  # noqa: ARG001
    return start_once.data


def refusal(ask: Callable[[str], object], path: str) -> str:
    """The message of a FieldError."""
    with pytest.raises(FieldError) as caught:
        ask(path)
    return str(caught.value)


def test_a_field_is_replaced_by_the_next_one(client, data, gaussians):
    for _ in range(2):
        assert client.save("again.safetensors") == data / "again.safetensors"
        (data / "other").mkdir(exist_ok=True)
        client.save("other/again.safetensors")
    assert len(FeatureField.load(data / "again.safetensors")) == len(gaussians)
    client.load("again.safetensors")
    (data / "again.safetensors").write_bytes((data / "again.safetensors").read_bytes()[:-100])  # a copy that broke off
    assert refusal(client.load, "again.safetensors")
    client.save("again.safetensors")
    client.load("again.safetensors")


@pytest.mark.parametrize("content", [b"", b"my notes", b"\x89MCAP0\r\n" + bytes(100), b"\xff" * 8, None])
def test_what_is_no_field_stays(client, data, content, gaussians):
    file = data / "stream.mcap"
    if content is None:  # a file like a field
        EditStack(gaussians).save(file)
        content = file.read_bytes()
    file.write_bytes(content)
    assert f"'{file}' is there and is no learned field" in refusal(client.save, "stream.mcap")
    assert file.read_bytes() == content


def test_the_edits_beside_a_field_stay(client, data):
    client.save("kitchen")
    edits = (data / "kitchen.edits").read_bytes()
    for name in ("kitchen.edits", "new.edits", "field.safetensors.edits"):
        assert ".edits" in refusal(client.save, name)
        assert refusal(client.load, name)
    assert (data / "kitchen.edits").read_bytes() == edits
    client.load("kitchen")
    (data / "notes.edits").write_bytes(b"edits of a text")
    assert "notes.edits' is there and is no stack of edits" in refusal(client.save, "notes")
    assert not (data / "notes").exists()
    assert (data / "notes.edits").read_bytes() == b"edits of a text"


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/y"])
def test_a_name_that_no_file_can_have_is_refused(client, data, name):  # noqa: ARG001
    assert "can't write the field" in refusal(client.save, name)


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(client, data):
    """Of any name, at the next save into the folder."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(data / name)], stdout=subprocess.PIPE, text=True)
        for name in ("one.safetensors", "two.safetensors")
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "begun\n"
        assert len(list(data.glob(".*.part"))) == 2
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        client.save("three.safetensors")
        assert [path.name[:14] for path in data.glob(".*")] == [".two.safetenso"]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    client.save("three.safetensors")
    assert not list(data.glob(".*"))
