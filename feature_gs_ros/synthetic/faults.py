"""What goes wrong with recordings, put into good ones on purpose: to see whether it is noticed and named.

Each fault changes a stream's frames as the mistake would: the images are what a camera took; poses, intrinsics and
stamps are what was said about them. How large a mistake is, and where it begins, is drawn at random. `mildly_noisy` is
not a fault: what every robot's recording has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

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

    def __init__(self, recording: RosbagStream, seconds: float, frames: Sequence[Frame] | None = None) -> None:
        """``frames`` of the recording, by default all."""
        self._recording, self._late_ns = recording, round(seconds * 1e9)
        altered = []
        for frame in recording.frames() if frames is None else frames:
            assert frame.stamp_ns is not None
            with contextlib.suppress(NoTransformError):  # the ends have no tf beyond them
                altered.append(replace(frame, camera_from_world=self.camera_from_map(frame, frame.stamp_ns)))
        super().__init__("late", altered)

    def camera_from_map(self, frame: Frame, stamp_ns: int) -> Array:
        """As the recording's, so much later."""
        return self._recording.camera_from_map(frame, stamp_ns + self._late_ns)


class GappyStream(AlteredStream):
    """A recording with a gap in tf: poses within it are interpolated between those at its ends."""

    def __init__(self, frames: Sequence[Frame], first: int, count: int) -> None:
        """``count`` frames from the index ``first`` on lie in the gap; it ends at the frames beside it."""
        before, after = frames[first - 1], frames[first + count]
        assert before.stamp_ns is not None
        assert after.stamp_ns is not None
        self._gap = range(before.stamp_ns, after.stamp_ns)
        ends = np.stack([rigid_inverse(frame.camera_from_world) for frame in (before, after)])
        between = Slerp([before.stamp_ns, after.stamp_ns], Rotation.from_matrix(ends[:, :3, :3]))
        altered = list(frames)
        for k in range(first, first + count):
            stamp = altered[k].stamp_ns
            assert stamp is not None
            fraction = (stamp - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
            position = (1 - fraction) * ends[0, :3, 3] + fraction * ends[1, :3, 3]
            pose = rigid_inverse(_pose(between(stamp).as_matrix(), position))
            altered[k] = replace(altered[k], camera_from_world=pose)
        super().__init__("gappy", altered)

    def tf_gap(self, frame: Frame) -> float:
        """Seconds between the tf samples about a frame."""
        assert frame.stamp_ns is not None
        inside = self._gap.start < frame.stamp_ns < self._gap.stop
        return (self._gap.stop - self._gap.start) * 1e-9 if inside else 0.02


@dataclass(frozen=True, eq=False)
class Fault:
    """One mistake, and the codes of findings that name it."""

    change: Change
    codes: tuple[str, ...]  # the first finding's code must be one of these

    def apply(self, frames: Sequence[Frame], seed: int = 0) -> AlteredStream:
        """The stream with this fault; images are altered when they are read."""
        return AlteredStream("altered", self.change(list(frames), np.random.default_rng(seed)))


def mildly_noisy(frames: Sequence[Frame], seed: int) -> AlteredStream:
    """Poses off by 1 to 2 mm and 0.1 to 0.2° rms per axis, exposure by 10%, JPEG of quality 60 to 90, a little blur."""
    rng = np.random.default_rng(seed)
    metres, degrees = rng.uniform(0.001, 0.002), rng.uniform(0.1, 0.2)
    altered = []
    for frame in frames:
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(degrees), 3)).as_matrix()
        pose = _pose(turn @ frame.camera_from_world[:3, :3], frame.camera_from_world[:3, 3] + rng.normal(0, metres, 3))
        gain, quality = float(np.exp(rng.normal(0, 0.1))), int(rng.integers(60, 90))
        sigma = float(rng.uniform(0.0, 0.8)) * frame.camera.width / 640

        def developed(image: Image, gain: float = gain, quality: int = quality, sigma: float = sigma) -> Image:
            bright = np.clip(image * gain, 0, 255).astype(np.uint8)
            soft = cv2.GaussianBlur(bright, (0, 0), max(sigma, 0.05))
            _, data = cv2.imencode(".jpg", soft[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
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


def _drawn(change_of: Callable[[np.random.Generator], Change]) -> Change:
    """A change whose size is drawn first."""
    return lambda frames, rng: change_of(rng)(frames, rng)


def _factor(rng: np.random.Generator, least: float, most: float) -> float:
    """Larger or smaller than 1 by ``least`` to ``most``."""
    return float(np.exp(rng.choice([-1, 1]) * rng.uniform(np.log1p(least), np.log1p(most))))


def _direction(rng: np.random.Generator, dimensions: int = 3) -> Array:
    vector = rng.normal(size=dimensions)
    return np.asarray(vector / np.linalg.norm(vector))


def _pose(rotation: Array, translation: Array) -> Array:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _scaled(factor: float) -> Change:
    return _poses(lambda pose: _pose(pose[:3, :3], factor * pose[:3, 3]))


def _flange(rng: np.random.Generator) -> Change:
    """Poses of something 5 to 15 cm from the camera, turned any way by more than 20°."""
    turn = rng.uniform(20, 180) * _direction(rng)
    rotation = Rotation.from_rotvec(np.radians(turn)).as_matrix()
    flange_from_camera = _pose(rotation, rng.uniform(0.05, 0.15) * _direction(rng))
    return _poses(lambda pose: np.asarray(flange_from_camera @ pose))


def _moved(rng: np.random.Generator) -> Change:
    """The map frame moved by 3 to 12 cm."""
    move = _pose(np.eye(3), rng.uniform(0.03, 0.12) * _direction(rng))
    return _poses(lambda pose: pose @ move)


def _turned(rng: np.random.Generator) -> Change:
    """The map frame turned by 4° to 20° about any axis."""
    turn = Rotation.from_rotvec(np.radians(rng.uniform(4, 20)) * _direction(rng)).as_matrix()
    return _poses(lambda pose: pose @ _pose(turn, np.zeros(3)))


def _quaternion_order(pose: Array) -> Array:
    world = rigid_inverse(pose)
    w, x, y, z = quat_wxyz_from_rotation(world[:3, :3])
    return rigid_inverse(_pose(rotation_from_quat_wxyz([x, y, z, w]), world[:3, 3]))


def _shifted(frames: list[Frame], first: int, shift: int) -> list[Frame]:
    """From a frame on, the poses of the frames ``shift`` later; the last ones, which have none, are left out."""
    count = len(frames)
    return [
        frame if k < first else replace(frame, camera_from_world=frames[min(k + shift, count - 1)].camera_from_world)
        for k, frame in enumerate(frames)
    ][: count - shift]


def _cropped(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """A crop off the middle, with the whole image's cx and cy."""
    part, x, y = rng.uniform(0.6, 0.85), rng.uniform(0.3, 1), rng.uniform(0.3, 1)
    altered = []
    for frame in frames:
        camera = frame.camera
        width, height = round(camera.width * part), round(camera.height * part)
        left, top = round(x * (camera.width - width)), round(y * (camera.height - height))

        def crop(image: Image, left: int = left, top: int = top, width: int = width, height: int = height) -> Image:
            return image[top : top + height, left : left + width]

        altered.append(_with_image(replace(frame, camera=replace(camera, width=width, height=height)), crop))
    return altered


def _centre_moved(rng: np.random.Generator) -> Change:
    x, y = rng.uniform(0.03, 0.1) * _direction(rng, 2)
    return _cameras(lambda c: replace(c, cx=c.cx + float(x) * c.width, cy=c.cy + float(y) * c.width))


def _lens_dropped(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """Images of a lens that nothing is said about; of straight ones, a lens is put before them."""
    if frames[0].camera.distortion is not None:
        return [replace(frame, camera=replace(frame.camera, distortion=None)) for frame in frames]
    unbent = Distortion("plumb_bob", (float(rng.uniform(0.12, 0.35)), float(rng.uniform(0.0, 0.06)), 0.0, 0.0))
    return [
        _with_image(frame, lambda image, camera=frame.camera: _bent(image, camera, unbent))  # type: ignore[misc]
        for frame in frames
    ]


def _lens_twice(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """Rectified images, whose lens is given all the same."""
    barrel = Distortion("plumb_bob", (float(-rng.uniform(0.12, 0.32)), float(rng.uniform(0.0, 0.1)), 0.0, 0.0))
    lens = frames[0].camera.distortion or barrel
    return [
        replace(_with_image(frame, lambda image, camera=frame.camera: rectified(image, camera)[0]),  # type: ignore[misc]
                camera=replace(frame.camera, distortion=lens))
        for frame in frames
    ]  # fmt: skip


def _bent(image: Image, camera: Camera, unbent: Distortion) -> Image:
    """A straight image as through a barrel lens: rectified by about the inverse of one."""
    return rectified(image, replace(camera, distortion=unbent))[0]


def _fisheye_as_pinhole(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    """Images through an equidistant fisheye that nothing is said about, made of straight ones."""

    def bent(image: Image, camera: Camera) -> Image:
        straight, pinhole, _ = rectified(image, camera)
        rows, columns = np.indices(straight.shape[:2], np.float64)
        x = (columns + 0.5 - pinhole.cx) / pinhole.fx
        y = (rows + 0.5 - pinhole.cy) / pinhole.fy
        angle = np.maximum(np.hypot(x, y), 1e-9)  # of an equidistant lens's ray
        stretch = np.tan(np.minimum(angle, 1.4)) / angle
        at_x = (x * stretch * pinhole.fx + pinhole.cx - 0.5).astype(np.float32)
        at_y = (y * stretch * pinhole.fy + pinhole.cy - 0.5).astype(np.float32)
        seen = cv2.remap(straight, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(seen, dtype=np.uint8)

    return [
        replace(_with_image(frame, lambda image, camera=frame.camera: bent(image, camera)),  # type: ignore[misc]
                camera=replace(frame.camera, distortion=None))
        for frame in frames
    ]  # fmt: skip


def _out_of_order(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    altered = list(frames)
    back = int(rng.uniform(1, 5) * 1e9)
    for k in rng.choice(np.arange(1, len(frames) - 1), max(1, len(frames) // 5), replace=False):
        stamp = altered[k].stamp_ns
        altered[k] = replace(altered[k], stamp_ns=None if stamp is None else stamp - back)
    return altered


def _frozen(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """The pose stands for a third of the stream, maybe to its end."""
    count = len(frames)
    first = int(rng.integers(1, count - max(3, count // 3)))
    held = range(first, count if rng.uniform() < 0.3 else first + max(3, count // 3))
    return [
        replace(frame, camera_from_world=frames[first].camera_from_world) if k in held else frame
        for k, frame in enumerate(frames)
    ]


def _jumping(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    altered = list(frames)
    for k in rng.choice(len(frames), max(2, len(frames) // 4), replace=False):
        pose = altered[k].camera_from_world.copy()
        pose[:3, 3] += rng.uniform(0.06, 0.2) * _direction(rng)
        altered[k] = replace(altered[k], camera_from_world=pose)
    return altered


def _with_arm(rng: np.random.Generator) -> Change:
    """A gripper that reaches into the image from below."""
    shift, tall, shade = rng.uniform(-0.2, 0.2), rng.uniform(0.8, 1.3), rng.uniform(0.6, 2.0)

    def altered(image: Image) -> Image:
        height, width = image.shape[:2]
        drawn = np.array(image)
        corners = np.array([[0.30, 1.0], [0.38, 1 - 0.26 * tall], [0.62, 1 - 0.28 * tall], [0.72, 1.0]])
        corners = (corners + [shift, 0.0]) * [width, height]
        color = tuple(shade * value for value in (58.0, 60.0, 64.0))
        cv2.fillPoly(drawn, [corners.astype(np.int32)], color)
        cv2.circle(drawn, (round((0.5 + shift) * width), int(0.86 * height)), width // 16, (190, 120, 30), -1)
        return drawn

    return _images(altered)


def _motion_blurred(rng: np.random.Generator) -> Change:
    """Over a fortieth to a twentieth of the width, along x or y."""
    part, along_x = rng.uniform(1 / 40, 1 / 20), rng.uniform() < 0.6

    def altered(image: Image) -> Image:
        length = max(3, round(image.shape[1] * part))
        shape = (1, length) if along_x else (length, 1)
        return np.asarray(cv2.filter2D(image, -1, np.full(shape, 1 / length)), dtype=np.uint8)

    return _images(altered)


def _exposed(rng: np.random.Generator, least: float, most: float) -> Change:
    gain = rng.uniform(least, most)
    return _images(lambda image: np.clip(image * gain, 0, 255).astype(np.uint8))


def _rolling(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """Rows sheared, as a sideways motion does: each image by its own amount, all to one side."""
    usual = rng.choice([-1, 1]) * rng.uniform(0.04, 0.1)

    def sheared(image: Image, shear: float) -> Image:
        height, width = image.shape[:2]
        matrix = np.array([[1, shear, -shear * height / 2], [0, 1, 0]])
        return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)

    return [
        _with_image(frame, lambda image, shear=shear: sheared(image, shear))  # type: ignore[misc]
        for frame, shear in zip(frames, usual * rng.uniform(0.6, 1.4, len(frames)), strict=True)
    ]


def _other_scene(image: Image) -> Image:
    """Blobs and stripes of nothing in particular, about as contrasty."""
    rng = np.random.default_rng(int(image[::37, ::41].sum()) % 1000)
    noise = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    large = cv2.resize(noise, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 12, image.shape)
    return np.clip(large + fine, 0, 255).astype(np.uint8)


def _turned_images(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """By 90° either way, as a camera mounted on its side; K is that of the turned image."""
    right = bool(rng.uniform() < 0.5)
    altered = []
    for frame in frames:
        c = frame.camera
        cx, cy = (c.height - c.cy, c.cx) if right else (c.cy, c.width - c.cx)
        camera = Camera(c.height, c.width, c.fy, c.fx, cx, cy, c.distortion)
        altered.append(
            replace(_with_image(frame, lambda image: np.rot90(image, -1 if right else 1)), camera=camera)
        )  # fmt: skip
    return altered


def _transposed_images(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    return [
        replace(_with_image(frame, lambda image: image.transpose(1, 0, 2)),
                camera=Camera(c.height, c.width, c.fy, c.fx, c.cy, c.cx, c.distortion))
        for frame in frames for c in (frame.camera,)
    ]  # fmt: skip


def _other_eye(rng: np.random.Generator) -> Change:
    """Intrinsics of another camera of the same make."""
    factor, (x, y) = _factor(rng, 0.02, 0.06), rng.uniform(0.02, 0.04) * _direction(rng, 2)
    return _cameras(
        lambda c: replace(
            c, fx=c.fx * factor, fy=c.fy * factor, cx=c.cx + float(x) * c.width, cy=c.cy + float(y) * c.width
        )
    )


def _reshaped(rng: np.random.Generator) -> Change:
    """K of a 4:3 image for one of 16:9, or the other way round: fx and cx, or fy and cy, by 3/4."""
    if rng.uniform() < 0.5:
        return _cameras(lambda c: replace(c, fx=0.75 * c.fx, cx=0.75 * c.cx))
    return _cameras(lambda c: replace(c, fy=0.75 * c.fy, cy=0.75 * c.cy))


def _shuffled(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    order = rng.permutation(len(frames))
    return [
        replace(frame, camera_from_world=frames[k].camera_from_world) for frame, k in zip(frames, order, strict=True)
    ]


def _inaccurate(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """Each pose off by 8 to 15 mm and 1 to 2° rms per axis, in its own way."""
    metres, degrees = rng.uniform(0.008, 0.015), rng.uniform(1, 2)
    altered = []
    for frame in frames:
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(degrees), 3)).as_matrix()
        pose = _pose(turn, rng.normal(0, metres, 3)) @ frame.camera_from_world
        altered.append(replace(frame, camera_from_world=pose))
    return altered


def _frame_moves(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """The map frame jumps by 5 to 30 cm in the second half, as a SLAM that relocalises."""
    first = int(len(frames) * rng.uniform(0.5, 0.75))
    move = _pose(np.eye(3), rng.uniform(0.05, 0.3) * _direction(rng))
    return [
        frame if k < first else replace(frame, camera_from_world=frame.camera_from_world @ move)
        for k, frame in enumerate(frames)
    ]


def _frozen_images(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """The driver repeats one image for a third of the stream."""
    count = len(frames)
    first = int(rng.integers(0, count - max(3, count // 3)))
    held = range(first, first + max(3, count // 3))
    load = frames[first].load_image
    return [replace(frame, load_image=load) if k in held else frame for k, frame in enumerate(frames)]


def _same_stamps(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:  # noqa: ARG001
    return [frame if k % 2 == 0 else replace(frame, stamp_ns=frames[k - 1].stamp_ns) for k, frame in enumerate(frames)]


def _in_some(change: Callable[[Image], Image]) -> Change:
    """In the images of the second half, or so."""

    def altered(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
        first = int(len(frames) * rng.uniform(0.3, 0.6))
        return [frame if k < first else _with_image(frame, change) for k, frame in enumerate(frames)]

    return altered


def _resolution(factor: float) -> Change:
    return _cameras(lambda c: replace(c, fx=c.fx * factor, fy=c.fy * factor, cx=c.cx * factor, cy=c.cy * factor))


def _focal(factor: float) -> Change:
    return _cameras(lambda c: replace(c, fx=c.fx * factor, fy=c.fy * factor))


def _aspect(rng: np.random.Generator) -> Change:
    factor, of_x = _factor(rng, 0.06, 0.25), rng.uniform() < 0.5
    return _cameras(lambda c: replace(c, fx=c.fx * factor) if of_x else replace(c, fy=c.fy * factor))


_FLIP_YZ = np.diag([1.0, -1, -1, 1])
_MIRROR_Y = np.diag([1.0, -1, 1, 1])

FAULTS: dict[str, Fault] = {
    "inverse poses": Fault(_poses(lambda pose: rigid_inverse(pose)), ("poses.inverse",)),
    "OpenGL axes": Fault(_poses(lambda pose: _FLIP_YZ @ pose), ("poses.opengl",)),
    "y-up world": Fault(
        _poses(lambda pose: pose @ _pose(Rotation.from_euler("x", -90, degrees=True).as_matrix(), np.zeros(3))),
        ("poses.y-up",),
    ),
    "left-handed": Fault(_poses(lambda pose: _MIRROR_Y @ pose @ _MIRROR_Y), ("poses.left-handed",)),
    "flange poses": Fault(_drawn(_flange), ("poses.flange",)),
    "quaternion order": Fault(_poses(_quaternion_order), ("poses.quaternion-order",)),
    "transposed rotations": Fault(
        _poses(lambda pose: _pose(pose[:3, :3].T, pose[:3, 3])), ("poses.transposed-rotation",)
    ),
    "mm for m": Fault(_scaled(1000.0), ("scale",)),
    "m for mm": Fault(_scaled(0.001), ("scale",)),
    "scale 6 to 40% off": Fault(_drawn(lambda rng: _scaled(_factor(rng, 0.06, 0.4))), ("scale",)),
    "alignment 3 to 12 cm off": Fault(_drawn(_moved), ("alignment.off",)),
    "alignment 4 to 20° off": Fault(_drawn(_turned), ("alignment.off",)),
    "pose of the next frame": Fault(lambda frames, rng: _shifted(frames, 0, 1), ("poses.shifted", "time.offset")),  # noqa: ARG005
    "pose of the next frame, from the middle on": Fault(
        lambda frames, rng: _shifted(frames, int(len(frames) * rng.uniform(0.25, 0.6)), 1),
        ("poses.shifted", "time.offset"),
    ),
    "stamps out of order": Fault(_out_of_order, ("time.out-of-order",)),
    "frozen poses": Fault(_frozen, ("poses.frozen",)),
    "jumping poses": Fault(_jumping, ("poses.jump",)),
    "focal length halved": Fault(_focal(0.5), ("intrinsics.focal", "intrinsics.resolution")),
    "focal length 6 to 30% off": Fault(_drawn(lambda rng: _focal(_factor(rng, 0.06, 0.3))), ("intrinsics.focal",)),
    "half the resolution": Fault(_resolution(0.5), ("intrinsics.resolution",)),
    "twice the resolution": Fault(_resolution(2.0), ("intrinsics.resolution",)),
    "cx and cy swapped": Fault(
        _cameras(lambda c: replace(c, cx=c.cy, cy=c.cx)),
        ("intrinsics.swapped-size", "intrinsics.swapped-centre", "intrinsics.principal-point"),
    ),
    "fx or fy 6 to 25% off": Fault(_drawn(_aspect), ("intrinsics.aspect",)),
    "principal point 3 to 10% off": Fault(_drawn(_centre_moved), ("intrinsics.principal-point",)),
    "crop": Fault(_cropped, ("intrinsics.principal-point",)),
    "distortion not applied": Fault(_lens_dropped, ("intrinsics.distortion-missing", "intrinsics.fisheye")),
    "distortion applied twice": Fault(_lens_twice, ("intrinsics.distortion-twice",)),
    "fisheye taken for pinhole": Fault(_fisheye_as_pinhole, ("intrinsics.fisheye", "intrinsics.distortion-missing")),
    "mirrored": Fault(_images(lambda image: image[:, ::-1]), ("images.mirrored",)),
    "mirrored vertically": Fault(_images(lambda image: image[::-1]), ("images.mirrored-vertically",)),
    "upside down": Fault(_images(lambda image: image[::-1, ::-1]), ("images.upside-down",)),
    "red and blue swapped": Fault(_images(lambda image: image[:, :, ::-1]), ("images.red-blue-swapped",)),
    "motion blur": Fault(_drawn(_motion_blurred), ("images.blurred",)),
    "under-exposed": Fault(_drawn(lambda rng: _exposed(rng, 0.1, 0.35)), ("images.exposure",)),
    "over-exposed": Fault(_drawn(lambda rng: _exposed(rng, 3.0, 5.0)), ("images.exposure",)),
    "rolling shutter": Fault(_rolling, ("images.rolling-shutter",)),
    "own arm": Fault(_drawn(_with_arm), ("images.own-arm",)),
    "turned by 90°": Fault(_turned_images, ("images.turned",)),
    "transposed": Fault(_transposed_images, ("images.transposed",)),
    "negatives": Fault(_images(lambda image: 255 - image), ("images.inverted",)),
    "bits cut off": Fault(
        _images(lambda image: ((image.astype(np.uint16) * 4) & 255).astype(np.uint8)),
        ("images.values", "images.exposure"),
    ),
    "red and blue swapped in half of them": Fault(
        _in_some(lambda image: image[:, :, ::-1]), ("images.red-blue-swapped",)
    ),
    "blank images in half of them": Fault(_in_some(lambda image: np.full_like(image, 120)), ("images.blank",)),
    "one image again and again": Fault(_frozen_images, ("images.frozen",)),
    "another camera's intrinsics": Fault(_drawn(_other_eye), ("intrinsics.other-camera", "intrinsics.principal-point")),
    "intrinsics of another shape": Fault(_drawn(_reshaped), ("intrinsics.resolution", "intrinsics.aspect")),
    "shuffled poses": Fault(_shuffled, ("poses.shuffled", "poses.shifted")),
    "each pose off by 1 to 2 cm": Fault(_inaccurate, ("poses.inaccurate",)),
    "map frame jumps": Fault(_frame_moves, ("poses.jump",)),
    "inverse poses in mm": Fault(
        _poses(lambda pose: rigid_inverse(_pose(pose[:3, :3], 1000 * pose[:3, 3]))), ("poses.inverse",)
    ),
    "repeated stamps": Fault(_same_stamps, ("time.repeated",)),
    "another scene": Fault(_images(_other_scene), ("scene.other",)),
}
