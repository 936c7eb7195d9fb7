"""A stream of image files with a camera and a pose each: what COLMAP, nerfstudio and plain folders come down to."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Frame, check_pose
from feature_gs_ros.core.errors import CameraError, ImageError, StreamError
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.images import decode_stored, has_16_bits, image_file_size, load_image, read_image
from feature_gs_ros.io.streams.bit_depth import bits_of_stream
from feature_gs_ros.io.streams.frame_names import check_names, check_not_empty, listed_names

log = logging.getLogger(__name__)
_LOOKED_AT = 8  # images of 16 bits, for how many of them are in use


def images_folder(base: Path, images: str | Path) -> Path:
    """The folder that someone named in place of a stream's own: below the stream, or else from the working directory.

    Raises:
        StreamError: there is neither.
    """
    for folder in (base / images, Path(images)):
        if folder.is_dir():
            return folder
    raise StreamError(f"there is no images folder '{base / images}' nor '{images}'", code="stream.missing")


@dataclass(frozen=True, eq=False)
class PosedImage:
    """One image as the stream's file lists it."""

    name: str
    path: Path
    camera: Camera | None  # None where it takes the image's size, and that can't be read
    camera_from_world: NDArray[np.float64]  # [4, 4], not checked yet


class PosedImageStream:
    """Frames of image files, in the order of the list.

    Left out and counted in `skipped`: images whose file is missing or damaged, whose pose isn't rigid and
    finite, or whose shape isn't the camera's. An image of the camera's shape in another resolution (a folder
    of reduced copies) has its camera scaled.

    Raises:
        StreamError: nothing is left, or two images can't be told apart.
    """

    def __init__(self, source: str, images: Sequence[PosedImage]) -> None:
        self.source = source
        self.skipped: Counter[str] = Counter()
        self._frames: dict[str, Frame] = {}
        left_out: list[str] = []
        for image in images:
            frame, reason = _frame(image)
            if frame is None:
                self.skipped[reason] += 1
                left_out.append(image.path.name)
            elif image.name in self._frames:
                raise StreamError(
                    f"'{source}' has two images named '{image.name}'; rename one", code="stream.duplicate"
                )
            else:
                self._frames[image.name] = frame
        check_not_empty(len(self._frames), self.skipped, source)
        if left_out:
            log.warning("%d images of '%s' are left out: %s", len(left_out), source, listed_names(left_out))
        self._use_all_bits()

    def _use_all_bits(self) -> None:
        """Bring images of 16 bits to full brightness where fewer are in use, by a few of them."""
        brightest = 0
        frames = list(self._frames.values())
        for frame in frames[:: -(-len(frames) // _LOOKED_AT)]:
            with suppress(ImageError):  # it is reported where it is read
                with open_regular(frame.source) as file:
                    deep = has_16_bits(file.read(25))
                if not deep:
                    return
                brightest = max(brightest, int(decode_stored(read_image(frame.source), frame.source).max()))
        bits = bits_of_stream(brightest, self.source)
        if bits < 16:
            for frame in frames:
                load = partial(load_image, frame.source, frame.camera, bits)
                self._frames[frame.name] = replace(frame, load_image=load)

    def names(self) -> list[str]:
        """Names of all frames, in order."""
        return list(self._frames)

    def frames(self, names: Collection[str] | None = None) -> Iterator[Frame]:
        """All frames, or the named ones, in the stream's order.

        Raises:
            StreamError: a name that the stream doesn't have.
        """
        if names is None:
            return iter(self._frames.values())
        check_names(names, self._frames, self.source)
        wanted = set(names)
        return (frame for name, frame in self._frames.items() if name in wanted)


def _frame(image: PosedImage) -> tuple[Frame | None, str]:
    """The frame, or why there is none."""
    try:
        there = image.path.is_file()
    except OSError as error:  # a name longer than file systems take, a folder that may not be read
        return None, f"image file in '{image.path.parent}': {error.strerror}"
    if not there:
        return None, f"image file is missing in '{image.path.parent}'"
    try:
        pose = check_pose(image.camera_from_world, f"'{image.name}'")
    except CameraError:
        return None, "pose is not finite and rigid"
    try:
        width, height = image_file_size(image.path)
    except ImageError as error:
        pointer = error.code == "image.pointer"
        return None, "image file is a pointer of git LFS: run git lfs pull" if pointer else "image file is damaged"
    camera = image.camera
    if camera is None:
        return None, "image's size is unknown"
    if (width, height) != (camera.width, camera.height):
        # The shape agrees when rounding the reduced size explains the difference.
        if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height):
            turned = (height, width) == (camera.width, camera.height)
            return None, (
                "image has its camera's sides swapped: turn it as its EXIF orientation says (mogrify -auto-orient)"
                if turned
                else "image has another shape than its camera"
            )
        camera = camera.resized(width, height)
    return Frame(image.name, camera, pose, partial(load_image, image.path, camera), source=str(image.path)), ""
