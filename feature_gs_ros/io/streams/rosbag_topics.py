"""Which image topics of a bag are read, and which camera_info belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feature_gs_ros.core.errors import ImageError, StreamError
from feature_gs_ros.io.messages.image import ImageKind, image_kind
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.rosbag_file import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, Bag

_TRANSPORTS = ("compressed", "zstd", "theora", "ffmpeg")


@dataclass(frozen=True)
class CameraTopic:
    """An image topic and where its calibration comes from."""

    image: str
    camera_info: str  # empty: from the calibration file
    is_rectified: bool
    name: str = ""  # tells the frames of several cameras apart; empty where there is one


def choose_cameras(bag: Bag, options: BagOptions) -> tuple[list[CameraTopic], dict[str, str]]:
    """Cameras to read, and the other image topics with the reason why they aren't.

    Unless `image_topics` names them: topics without a camera_info and depth maps are left out, greys too
    where there are colours; of several topics of one camera the raw image is taken before the rectified, and
    the uncompressed before the compressed.

    Raises:
        StreamError: nothing is left, or an option names what isn't there.
    """
    available = bag.names(IMAGE, COMPRESSED_IMAGE)
    if not available:
        raise StreamError(f"'{bag.path}' has no images; it has {_listed(bag.all_topics)}", code="stream.empty")
    ignored: dict[str, str] = {}
    if options.image_topics:
        cameras = _named_cameras(bag, options, available)
    else:
        if options.camera_info_topics:
            raise StreamError("--camera-info-topics goes with --image-topics: name both", code="stream.conflict")
        cameras, ignored = _usual_cameras(bag, options, available)
    if options.camera_info_file is not None and len(cameras) > 1:
        topics = _listed([camera.image for camera in cameras])
        raise StreamError(
            f"one camera_info_file for several cameras ({topics}): name one of them (--image-topics)",
            code="stream.conflict",
        )
    return _with_names(cameras), ignored


def _named_cameras(bag: Bag, options: BagOptions, available: Sequence[str]) -> list[CameraTopic]:
    recorded = bag.names(CAMERA_INFO)
    infos = options.camera_info_topics or ("",) * len(options.image_topics)
    if len(infos) != len(options.image_topics):
        raise StreamError(
            f"{len(options.image_topics)} --image-topics, but {len(infos)} --camera-info-topics", code="stream.conflict"
        )
    cameras = []
    for topic, info in zip(options.image_topics, infos, strict=True):
        if topic not in available:
            raise StreamError(
                f"'{bag.path}' has no image topic '{topic}'; it has {_listed(available)}", code="stream.missing"
            )
        given = CameraTopic(topic, info, _is_rectified(topic, options)) if info else None
        camera = given or _camera(topic, recorded, options)
        if camera is None or camera.camera_info not in ("", *recorded):
            raise StreamError(
                f"'{topic}' has no camera_info ({info or ' or '.join(_usual_infos(topic))}); the bag has "
                f"{_listed(recorded)}: name one (--camera-info-topics) or give a calibration (--camera-info-file)",
                code="stream.missing",
            )
        cameras.append(camera)
    return cameras


def _usual_cameras(bag: Bag, options: BagOptions, available: Sequence[str]) -> tuple[list[CameraTopic], dict[str, str]]:
    recorded = bag.names(CAMERA_INFO)
    kinds: dict[CameraTopic, ImageKind] = {}
    ignored: dict[str, str] = {}
    for topic, message in bag.first_messages(available).items():
        camera = _camera(topic, recorded, options)
        if camera is None:
            ignored[topic] = f"it has no camera_info ({' or '.join(_usual_infos(topic))})"
            continue
        try:
            kinds[camera] = image_kind(message) if message is not None else "colour"
        except ImageError as error:
            ignored[topic] = str(error)
    if "colour" in kinds.values():
        ignored.update({camera.image: "it is grey" for camera, kind in kinds.items() if kind == "mono"})
    chosen: dict[str, CameraTopic] = {}
    usable = (camera for camera in kinds if camera.image not in ignored)
    for camera in sorted(usable, key=lambda camera: (camera.is_rectified, _base(camera.image) != camera.image)):
        first = chosen.setdefault(camera.camera_info or _namespace(camera.image), camera)
        if first != camera:
            ignored[camera.image] = f"it is the camera of {first.image}"
    if not chosen:
        reasons = "; ".join(f"{topic}: {reason}" for topic, reason in ignored.items())
        raise StreamError(
            f"none of the image topics of '{bag.path}' can be used ({reasons}); name --image-topics and "
            "--camera-info-topics, or give a calibration (--camera-info-file)",
            code="stream.missing",
        )
    return sorted(chosen.values(), key=lambda camera: camera.image), ignored


def _camera(topic: str, recorded: Sequence[str], options: BagOptions) -> CameraTopic | None:
    if options.camera_info_file is not None:
        return CameraTopic(topic, "", _is_rectified(topic, options))
    info = next((info for info in _usual_infos(topic) if info in recorded), None)
    return None if info is None else CameraTopic(topic, info, _is_rectified(topic, options))


def _is_rectified(topic: str, options: BagOptions) -> bool:
    if options.rectified is not None:
        return options.rectified
    return _base(topic).rpartition("/")[2].startswith("image_rect")


def _usual_infos(topic: str) -> tuple[str, str]:
    """Beside the image as image_transport has it, and below it as some drivers do."""
    return f"{_namespace(topic)}/camera_info", f"{_base(topic)}/camera_info"


def _base(topic: str) -> str:
    """The topic without image_transport's suffix."""
    base, _, last = topic.rpartition("/")
    return base if last in _TRANSPORTS and base else topic


def _namespace(topic: str) -> str:
    return _base(topic).rpartition("/")[0]


def _with_names(cameras: Sequence[CameraTopic]) -> list[CameraTopic]:
    if len(cameras) == 1:
        return list(cameras)
    for names in (
        [_namespace(camera.image).strip("/").replace("/", "_") for camera in cameras],
        [camera.image.strip("/").replace("/", "_") for camera in cameras],
    ):
        if len(set(names)) == len(names) and all(names):
            break
    return [replace(camera, name=name) for camera, name in zip(cameras, names, strict=True)]


def _listed(topics: Sequence[str]) -> str:
    return ", ".join(topics) or "none"
