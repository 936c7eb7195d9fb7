"""What goes wrong with recordings, put into good ones on purpose: to see whether it is noticed and named.

Each fault changes a stream's frames as the mistake would: the images are what a camera took; poses, intrinsics and
stamps are what was said about them. `mildly_noisy` is no fault: what every robot's recording has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Distortion, Frame, Image, rectified
from feature_gs_ros.core.errors import NoTransformError
from feature_gs_ros.core.geometry import quat_wxyz_from_rotation, rigid_inverse, rotation_from_quat_wxyz
from feature_gs_ros.io.streams.rosbag import RosbagStream

Array = NDArray[np.float64]
Change = Callable[[list[Frame], np.random.Generator], list[Frame]]


class AlteredStream:
    """Frames in memory as a stream."""

    def __init__(self, source: str, frames: Sequence[Frame]) -> None:
        self.source = source
        self._frames = {frame.name: frame for frame in frames}

    @property
    def skipped(self) -> Mapping[str, int]:
        return {}

    def names(self) -> list[str]:
        return list(self._frames)

    def frames(self, names: Collection[str] | None = None) -> Iterator[Frame]:
        return (frame for name, frame in self._frames.items() if names is None or name in names)


class LateStream(AlteredStream):
    """A recording whose images' clock differs from that of tf: each image has tf's pose of so many seconds later."""

    def __init__(self, recording: RosbagStream, seconds: float) -> None:
        self._recording, self._late_ns = recording, round(seconds * 1e9)
        altered = []
        for frame in recording.frames():
            assert frame.stamp_ns is not None
            with contextlib.suppress(NoTransformError):  # the ends have no tf beyond them
                altered.append(replace(frame, camera_from_world=self.camera_from_map(frame, frame.stamp_ns)))
        super().__init__("late", altered)

    def camera_from_map(self, frame: Frame, stamp_ns: int) -> Array:
        """As the recording's, so much later."""
        return self._recording.camera_from_map(frame, stamp_ns + self._late_ns)


@dataclass(frozen=True, eq=False)
class Fault:
    """One mistake, and the codes of findings that name it."""

    change: Change
    codes: tuple[str, ...]  # the first finding's code must be one of these

    def apply(self, frames: Sequence[Frame], seed: int = 0) -> AlteredStream:
        """The stream with this fault; images are altered when they are read."""
        return AlteredStream("altered", self.change(list(frames), np.random.default_rng(seed)))


def mildly_noisy(frames: Sequence[Frame], seed: int) -> AlteredStream:
    """Poses off by 2 mm and 0.2° rms per axis, exposure by 15%, JPEG of quality 60 to 90."""
    rng = np.random.default_rng(seed)
    altered = []
    for frame in frames:
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(0.2), 3)).as_matrix()
        pose = _pose(turn @ frame.camera_from_world[:3, :3], frame.camera_from_world[:3, 3] + rng.normal(0, 0.002, 3))
        gain, quality = float(np.exp(rng.normal(0, 0.15))), int(rng.integers(60, 90))

        def developed(image: Image, gain: float = gain, quality: int = quality) -> Image:
            bright = np.clip(image * gain, 0, 255).astype(np.uint8)
            _, data = cv2.imencode(".jpg", bright[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[:, :, ::-1]

        altered.append(_with_image(replace(frame, camera_from_world=pose), developed))
    return AlteredStream("noisy", altered)


def _with_image(frame: Frame, change: Callable[[Image], Image]) -> Frame:
    return replace(frame, load_image=lambda: np.ascontiguousarray(change(frame.image)))


def _images(change: Callable[[Image], Image]) -> Change:
    return lambda frames, rng: [_with_image(frame, change) for frame in frames]  # noqa: ARG005


def _poses(change: Callable[[Array], Array]) -> Change:
    return lambda frames, rng: [  # noqa: ARG005
        replace(frame, camera_from_world=change(frame.camera_from_world)) for frame in frames
    ]


def _cameras(change: Callable[[Camera], Camera]) -> Change:
    return lambda frames, rng: [replace(frame, camera=change(frame.camera)) for frame in frames]  # noqa: ARG005


def _pose(rotation: Array, translation: Array) -> Array:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _scaled(factor: float) -> Change:
    return _poses(lambda pose: _pose(pose[:3, :3], factor * pose[:3, 3]))


def _flange(pose: Array) -> Array:
    flange_from_camera = _pose(
        Rotation.from_euler("xyz", [5, -8, 85], degrees=True).as_matrix(), np.array([0.06, -0.03, -0.08])
    )
    return np.asarray(flange_from_camera @ pose)


def _quaternion_order(pose: Array) -> Array:
    world = rigid_inverse(pose)
    w, x, y, z = quat_wxyz_from_rotation(world[:3, :3])
    return rigid_inverse(_pose(rotation_from_quat_wxyz([x, y, z, w]), world[:3, 3]))


def _shifted(frames: list[Frame], first: int, shift: int) -> list[Frame]:
    """From a frame on, the poses of the frames ``shift`` later."""
    count = len(frames)
    return [
        frame if k < first else replace(frame, camera_from_world=frames[min(k + shift, count - 1)].camera_from_world)
        for k, frame in enumerate(frames)
    ]


def _cropped(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    """A crop off the middle, with the whole image's cx and cy."""
    altered = []
    for frame in frames:
        camera = frame.camera
        width, height = camera.width * 3 // 4, camera.height * 3 // 4
        left, top = camera.width // 4, camera.height // 5

        def crop(image: Image, left: int = left, top: int = top, width: int = width, height: int = height) -> Image:
            return image[top : top + height, left : left + width]

        altered.append(_with_image(replace(frame, camera=replace(camera, width=width, height=height)), crop))
    return altered


def _lens_dropped(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    """Images of a lens that nothing is said about; of straight ones, a lens is put before them."""
    if frames[0].camera.distortion is not None:
        return [replace(frame, camera=replace(frame.camera, distortion=None)) for frame in frames]
    return [_with_image(frame, lambda image, camera=frame.camera: _bent(image, camera)) for frame in frames]  # type: ignore[misc]


def _lens_twice(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    """Rectified images, whose lens is given all the same."""
    lens = frames[0].camera.distortion or _BARREL
    return [
        replace(_with_image(frame, lambda image, camera=frame.camera: rectified(image, camera)[0]),  # type: ignore[misc]
                camera=replace(frame.camera, distortion=lens))
        for frame in frames
    ]  # fmt: skip


_BARREL = Distortion("plumb_bob", (-0.28, 0.09, 0.0, 0.0))
_UNBENT = Distortion("plumb_bob", (0.30, 0.05, 0.0, 0.0))


def _bent(image: Image, camera: Camera) -> Image:
    """A straight image as through a barrel lens: rectified by about the inverse of one."""
    return rectified(image, replace(camera, distortion=_UNBENT))[0]


def _out_of_order(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    altered = list(frames)
    for k in rng.choice(np.arange(1, len(frames) - 1), max(1, len(frames) // 5), replace=False):
        stamp = altered[k].stamp_ns
        altered[k] = replace(altered[k], stamp_ns=None if stamp is None else stamp - 3_000_000_000)
    return altered


def _frozen(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    first = int(rng.integers(2, max(3, len(frames) // 3)))
    held = range(first, first + max(3, len(frames) // 3))
    return [
        replace(frame, camera_from_world=frames[first].camera_from_world) if k in held else frame
        for k, frame in enumerate(frames)
    ]


def _jumping(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    altered = list(frames)
    for k in rng.choice(len(frames), max(2, len(frames) // 4), replace=False):
        pose = altered[k].camera_from_world.copy()
        pose[:3, 3] += rng.choice([-1, 1], 3) * rng.uniform(0.06, 0.12, 3)
        altered[k] = replace(altered[k], camera_from_world=pose)
    return altered


def _with_arm(image: Image) -> Image:
    """A gripper in the lower part of the image."""
    height, width = image.shape[:2]
    altered = np.array(image)
    corners = np.array([[0.30, 1.0], [0.38, 0.74], [0.62, 0.72], [0.72, 1.0]]) * [width, height]
    cv2.fillPoly(altered, [corners.astype(np.int32)], (58, 60, 64))
    cv2.circle(altered, (width // 2, int(0.86 * height)), width // 16, (190, 120, 30), -1)
    return altered


def _motion_blurred(image: Image) -> Image:
    """Over a fortieth of the width."""
    length = max(3, image.shape[1] // 40)
    return np.asarray(cv2.filter2D(image, -1, np.full((1, length), 1 / length)), dtype=np.uint8)


def _rolling(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    """Rows sheared, as a sideways motion does."""

    def sheared(image: Image) -> Image:
        height, width = image.shape[:2]
        shear = 0.05 * width / height
        matrix = np.array([[1, shear, -shear * height / 2], [0, 1, 0]])
        return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)

    return [_with_image(frame, sheared) for frame in frames]


def _other_scene(image: Image) -> Image:
    """Blobs and stripes of nothing in particular, about as contrasty."""
    rng = np.random.default_rng(int(image[::37, ::41].sum()) % 1000)
    noise = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    large = cv2.resize(noise, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 12, image.shape)
    return np.clip(large + fine, 0, 255).astype(np.uint8)


def _resolution(factor: float) -> Change:
    return _cameras(lambda c: replace(c, fx=c.fx * factor, fy=c.fy * factor, cx=c.cx * factor, cy=c.cy * factor))


_FLIP_YZ = np.diag([1.0, -1, -1, 1])
_MIRROR_Y = np.diag([1.0, -1, 1, 1])
_POSITION = ("alignment.off", "scale")

FAULTS: dict[str, Fault] = {
    "inverse poses": Fault(_poses(lambda pose: rigid_inverse(pose)), ("poses.inverse",)),
    "OpenGL axes": Fault(_poses(lambda pose: _FLIP_YZ @ pose), ("poses.opengl",)),
    "y-up world": Fault(
        _poses(lambda pose: pose @ _pose(Rotation.from_euler("x", -90, degrees=True).as_matrix(), np.zeros(3))),
        ("poses.y-up",),
    ),
    "left-handed": Fault(_poses(lambda pose: _MIRROR_Y @ pose @ _MIRROR_Y), ("poses.left-handed",)),
    "flange poses": Fault(_poses(_flange), ("poses.flange",)),
    "quaternion order": Fault(_poses(_quaternion_order), ("poses.quaternion-order",)),
    "transposed rotations": Fault(
        _poses(lambda pose: _pose(pose[:3, :3].T, pose[:3, 3])), ("poses.transposed-rotation",)
    ),
    "mm for m": Fault(_scaled(1000.0), ("scale",)),
    "m for mm": Fault(_scaled(0.001), ("scale",)),
    "scale 10% off": Fault(_scaled(1.1), ("scale",)),
    "alignment 5 cm off": Fault(
        _poses(lambda pose: pose @ _pose(np.eye(3), np.array([0.03, -0.04, 0.0]))), ("alignment.off",)
    ),
    "alignment 6° off": Fault(
        _poses(lambda pose: pose @ _pose(Rotation.from_euler("z", 6, degrees=True).as_matrix(), np.zeros(3))),
        ("alignment.off",),
    ),
    "next pose": Fault(lambda frames, rng: _shifted(frames, 0, 1)[:-1], ("poses.shifted", "time.offset")),  # noqa: ARG005
    "next pose from the sixth on": Fault(
        lambda frames, rng: _shifted(frames, 5, 1)[:-1],  # noqa: ARG005
        ("poses.shifted", "time.offset"),
    ),
    "stamps out of order": Fault(_out_of_order, ("time.out-of-order",)),
    "frozen poses": Fault(_frozen, ("poses.frozen",)),
    "jumping poses": Fault(_jumping, ("poses.jump",)),
    "focal length halved": Fault(
        _cameras(lambda c: replace(c, fx=c.fx / 2, fy=c.fy / 2)), ("intrinsics.focal", "intrinsics.resolution")
    ),
    "focal length 8% off": Fault(_cameras(lambda c: replace(c, fx=c.fx * 1.08, fy=c.fy * 1.08)), ("intrinsics.focal",)),
    "half the resolution": Fault(_resolution(0.5), ("intrinsics.resolution",)),
    "twice the resolution": Fault(_resolution(2.0), ("intrinsics.resolution",)),
    "cx and cy swapped": Fault(
        _cameras(lambda c: replace(c, cx=c.cy, cy=c.cx)),
        ("intrinsics.swapped-size", "intrinsics.swapped-centre", "intrinsics.principal-point"),
    ),
    "fy 10% off": Fault(_cameras(lambda c: replace(c, fy=c.fy * 1.1)), ("intrinsics.aspect",)),
    "principal point off": Fault(
        _cameras(lambda c: replace(c, cx=c.cx + 0.05 * c.width, cy=c.cy - 0.04 * c.width)),
        ("intrinsics.principal-point",),
    ),
    "crop": Fault(_cropped, ("intrinsics.principal-point",)),
    "distortion not applied": Fault(_lens_dropped, ("intrinsics.distortion-missing",)),
    "distortion applied twice": Fault(_lens_twice, ("intrinsics.distortion-twice",)),
    "mirrored": Fault(_images(lambda image: image[:, ::-1]), ("images.mirrored",)),
    "mirrored vertically": Fault(_images(lambda image: image[::-1]), ("images.mirrored-vertically",)),
    "upside down": Fault(_images(lambda image: image[::-1, ::-1]), ("images.upside-down",)),
    "red and blue swapped": Fault(_images(lambda image: image[:, :, ::-1]), ("images.red-blue-swapped",)),
    "motion blur": Fault(_images(_motion_blurred), ("images.blurred",)),
    "under-exposed": Fault(_images(lambda image: (image * 0.25).astype(np.uint8)), ("images.exposure",)),
    "over-exposed": Fault(_images(lambda image: np.clip(image * 4.0, 0, 255).astype(np.uint8)), ("images.exposure",)),
    "rolling shutter": Fault(_rolling, ("images.rolling-shutter",)),
    "own arm": Fault(_images(_with_arm), ("images.own-arm",)),
    "another scene": Fault(_images(_other_scene), ("scene.other",)),
}
