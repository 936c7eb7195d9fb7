"""Bytes of messages, whatever holds them."""

from __future__ import annotations

import array

import numpy as np
import pytest

from feature_gs_ros.core.errors import GridError, ImageError
from feature_gs_ros.io.messages.buffers import byte_array
from tests.errors import raises


class DeviceBuffer:
    """As rosidl_buffer.Buffer: a length and to_bytes, and nothing that numpy takes."""

    def __init__(self, content: bytes, fails: bool = False) -> None:
        self.content, self.fails = content, fails

    def __len__(self) -> int:
        return len(self.content)

    def to_bytes(self) -> bytes:
        if self.fails:
            raise RuntimeError("the device is gone")
        return self.content


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x02\xff",
        bytearray(b"\x01\x02\xff"),
        array.array("B", [1, 2, 255]),
        np.array([1, 2, 255], np.uint8),
        memoryview(b"\x01\x02\xff"),
        [1, 2, 255],
        DeviceBuffer(b"\x01\x02\xff"),
    ],
)
def test_whatever_holds_them(data):
    np.testing.assert_array_equal(byte_array(data, "image"), [1, 2, 255])


@pytest.mark.parametrize("data", [b"", array.array("B"), [], np.empty(0, np.uint8), DeviceBuffer(b"")])
def test_none_are_none(data):
    assert byte_array(data, "image").shape == (0,)


@pytest.mark.parametrize("data", [object(), None, DeviceBuffer(b"\x01", fails=True)])
def test_what_cannot_be_read_is_an_error_of_the_message(data):
    for error in (ImageError, GridError):
        with raises("grid.buffer|image.buffer", "/image") as caught:
            byte_array(data, "camera/image", error)
        assert caught.value.code == f"{error.code}.buffer"
