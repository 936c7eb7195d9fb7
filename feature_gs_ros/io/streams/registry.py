"""A recorded stream of posed images, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Protocol

from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.files import is_file, read_regular
from feature_gs_ros.io.streams.colmap import find_models, open_colmap
from feature_gs_ros.io.streams.folder import open_folder
from feature_gs_ros.io.streams.nerfstudio import open_nerfstudio
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.rosbag import RosbagStream
from feature_gs_ros.io.streams.rosbag_file import is_bag
from feature_gs_ros.io.structured import MAX_JSON


class Stream(Protocol):
    """Posed images in one world frame: a bag's map frame, a COLMAP model's frame, …"""

    source: str

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many images were left out, by reason; of a bag, as of the last whole pass over it."""
        ...

    def names(self) -> list[str]:
        """Names of all posed frames, in order; no image is decoded."""
        ...

    def frames(self, names: Collection[str] | None = None) -> Iterator[Frame]:
        """All frames, or the named ones, in the stream's order; an image is decoded when `Frame.image` is read.

        Raises:
            StreamError: a name that the stream doesn't have, or damage on the way.
        """
        ...


def open_stream(path: str | Path, *, images: str | Path | None = None, bag: BagOptions | None = None) -> Stream:
    """Open a rosbag2 recording, a COLMAP reconstruction, a nerfstudio dataset or a folder with ``cameras.json``.

    The format is recognised by the files. If a folder matches two formats, name the file or the folder of the
    one that is meant: ``transforms.json``, ``cameras.json``, ``sparse/0``.

    Args:
        path: folder or file.
        images: folder of the images, where it isn't the usual one; not for bags.
        bag: options for a bag; others take none.

    Returns:
        A stream: ``frames()`` iterates over posed images, ``names()`` lists them, ``skipped`` counts unusable ones.

    Raises:
        StreamError: nothing of the kind, more than one kind, damaged files, an option that doesn't belong,
            or not a single posed image.
        CameraError: intrinsics that can't be used.
    """
    path = Path(path)
    if bag is not None and bag.images is not None:  # of the command line's options
        images, bag = images or bag.images, replace(bag, images=None)
    try:
        if not path.exists():
            raise StreamError(f"there is no stream '{path}'", code="stream.unreadable")
        kinds = [kind for kind, is_kind in _KINDS.items() if is_kind(path)]
    except OSError as error:
        raise StreamError(f"can't read '{error.filename}': {error.strerror}", code="stream.unreadable") from error
    if not kinds:
        raise StreamError(
            f"'{path}' is not a stream: it holds no rosbag2 recording, COLMAP model, transforms.json or cameras.json"
            f"{_known_otherwise(path)}",
            code="stream.format",
        )
    if len(kinds) > 1:
        raise StreamError(
            f"'{path}' is {' and '.join(kinds)} at once; name the file or the folder that is meant",
            code="stream.conflict",
        )
    if kinds == ["rosbag2"]:
        if images is not None:
            raise StreamError(
                f"'{path}' is a rosbag2 recording, which holds its images: leave out images='{images}'",
                code="stream.conflict",
            )
        return RosbagStream(path, bag)
    if bag is not None and bag != BagOptions():
        raise StreamError(
            f"'{path}' is not a rosbag2 recording: leave out the options that are for those, {_words(bag)}",
            code="stream.conflict",
        )
    return _FILE_STREAMS[kinds[0]](path, images)


def _known_otherwise(path: Path) -> str:
    """What else a file or folder is, and what makes a stream of it; nothing where it isn't known either."""
    for name, hint in _OTHERS.items():
        if next(path.glob(name), None) is not None or path.name.endswith(name.lstrip("*")):
            return f"; {hint}"
    return ""


_OTHERS = {  # files by which other programs' folders are known
    "transforms_train.json": "it is a data set in parts: name the file, e.g. transforms_train.json",
    "keyframes/corrected_cameras": "it is Polycam's raw export: ns-process-data polycam makes a transforms.json of it",
    "keyframes/cameras": "it is Polycam's raw export: ns-process-data polycam makes a transforms.json of it",
    "rgbd": "it is Record3D's export: ns-process-data record3d makes a transforms.json of it",
    "*.r3d": "it is a Record3D capture: export it as EXR and RGB, and ns-process-data record3d makes a transforms.json",
    "frame_00000.json": "it is 3D Scanner App's ARKit export: COLMAP on its images makes a stream of it",
    "ARposes.txt": "it is an ARKit log of ios_logger: COLMAP on its frames makes a stream of it",
    "lowres_wide.traj": "it is a scan of ARKitScenes: write its poses as cameras.json, see docs/formats.md",
}


def _words(bag: BagOptions) -> str:
    """The options that aren't the defaults, as on the command line."""
    words = []
    for option in fields(bag):
        value = getattr(bag, option.name)
        if value != option.default:
            each = value if isinstance(value, tuple) else (value,)
            words += [f"--{option.name.replace('_', '-')} {one}" for one in each]
    return " ".join(words)


def _is_json(path: Path, name: str, key: bytes) -> bool:
    """A folder with that file, or a JSON file that holds the key."""
    if path.is_dir():
        return (path / name).is_file()
    return path.suffix == ".json" and is_file(path) and key in read_regular(path, MAX_JSON)


_KINDS: dict[str, Callable[[Path], bool]] = {
    "rosbag2": is_bag,
    "COLMAP": lambda path: bool(find_models(path)),
    "nerfstudio": lambda path: _is_json(path, "transforms.json", b'"transform_matrix"'),
    "cameras.json": lambda path: _is_json(path, "cameras.json", b'"camera_from_world"'),
}
_FILE_STREAMS = {"COLMAP": open_colmap, "nerfstudio": open_nerfstudio, "cameras.json": open_folder}
