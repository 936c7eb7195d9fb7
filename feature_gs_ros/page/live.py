"""The page of a running robot: its map as it is now, the camera's last image and pose, questions asked of the robot.

Nothing here computes answers: they come from the robot's own services, see `Robot`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.page.change import Change, change
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.limits import LOCAL
from feature_gs_ros.page.server import PageServer
from feature_gs_ros.query.masks_3d import State
from feature_gs_ros.query.objects import OrientedBox

if TYPE_CHECKING:
    import viser

    from feature_gs_ros.page.live_session import LiveSession

Array = NDArray[np.float64]
Cloud = Mapping[str, NDArray[np.float32]]  # fields [M] of a sensor_msgs/PointCloud2 of feature_map, map frame

UPDATE_PERIOD = 0.25  # s between two updates of the browsers at least
MAX_IMAGE_SIDE = 480  # px of the camera's image in a browser

EditName = Literal["delete", "extract", "undo", "redo"]


@dataclass(frozen=True, eq=False)
class LiveAnswer:
    """What the robot answered to a prompt."""

    prompt: str
    state: State
    message: str
    coverage: float  # 0..1
    seconds: float
    points: NDArray[np.float32]  # [M, 3] m, means of the Gaussians found
    boxes: tuple[OrientedBox, ...] = ()


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """The camera's last image."""

    image: Image  # [H, W, 3], rectified
    camera: Camera  # pinhole
    camera_from_map: Array | None  # [4, 4]; None while nothing tells where the camera is
    stamp_ns: int


class Robot(Protocol):
    """What answers: a running feature_map. Every method may be called from any thread, and waits for its answer."""

    def ask(self, prompts: Sequence[str], negatives: Sequence[str], threshold: float) -> list[LiveAnswer]:
        """
        Args:
            threshold: 0..1; 0 is the extractor's own.

        Raises:
            FeatureGsError: what the robot says is wrong.
        """
        ...

    def edit(self, operation: EditName, text: str) -> str:
        """Change what the map shows, for everybody; a line for a person.

        Raises:
            FeatureGsError: what the robot says is wrong.
        """
        ...


def map_of_cloud(cloud: Cloud) -> GaussianMap | None:
    """The Gaussians of feature_map's cloud, in the map frame; None where there are none.

    Colours are without view dependence. What isn't finite is left out.
    """
    if not len(cloud.get("x", ())):
        return None
    packed = np.ascontiguousarray(cloud["rgb"]).view(np.uint32)
    colors = np.stack([(packed >> shift) & 255 for shift in (16, 8, 0)], axis=1).astype(np.float32) / 255
    gaussians = GaussianMap.from_tensors(
        _columns(cloud, "x", "y", "z"),
        _columns(cloud, "rot_w", "rot_x", "rot_y", "rot_z"),
        _columns(cloud, "scale_x", "scale_y", "scale_z"),
        torch.from_numpy(cloud["opacity"]),
        torch.from_numpy((colors - 0.5) / SH_C0)[:, None],
        "the robot's map",
    )
    return gaussians if len(gaussians) else None


def rows_of_points(gaussians: GaussianMap, points: NDArray[np.float32]) -> Tensor:
    """Mask [N] of the Gaussians that lie exactly at points [M, 3]: both come from the same node."""
    own, others = _as_keys(gaussians.means.numpy()), _as_keys(points)
    return torch.from_numpy(np.isin(own, others))


class LivePage:
    """A running page; `close` ends it. It is fed by `show_map`, `show_frame` and `show_status`, which don't wait."""

    def __init__(self, robot: Robot, name: str, host: str = LOCAL, port: int = 8080) -> None:
        """
        Args:
            name: of the robot's node.

        Raises:
            OptionError: the host or port can't be listened on.
        """
        self.robot = robot
        self.name = name
        self.content: Content | None = None
        self.frame: LiveFrame | None = None
        self.status = f"waiting for {name}"
        self._changed = threading.Condition()
        self._cloud: Cloud | None = None  # that came last, and isn't shown yet
        self._pending = False
        self._stopping = False
        self._change: tuple[object, object, Change] | None = None  # of this content and frame
        self._server: PageServer[LiveSession] = PageServer(host, port)
        self._server.begin(lambda client, _: self._session(client))
        self._thread = threading.Thread(target=self._run, name="live-page", daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return self._server.host

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return self._server.address

    @property
    def sessions(self) -> int:
        """Browsers that are there."""
        return len(self._server.sessions)

    def show_map(self, cloud: Cloud) -> None:
        """The map as it is now."""
        with self._changed:
            self._cloud = cloud
            self._wake()

    def show_frame(self, frame: LiveFrame) -> None:
        """The camera's last image."""
        with self._changed:
            self.frame = frame
            self._wake()

    def show_status(self, text: str) -> None:
        """What the robot's node does."""
        with self._changed:
            if text != self.status:
                self.status = text
                self._wake()

    def changes(self) -> Change | None:
        """The map against the camera's last image; None without a map, an image or a pose. Computed once per image."""
        content, frame = self.content, self.frame
        if content is None or frame is None or frame.camera_from_map is None:
            return None
        if self._change is None or self._change[:2] != (content, frame):
            found = change(content.gaussians, frame.camera, frame.camera_from_map, frame.image)
            self._change = (content, frame, found)
        return self._change[2]

    def close(self) -> None:
        """End all sessions and the server."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(10)
        self._server.close()

    def _session(self, client: viser.ClientHandle) -> LiveSession:
        from feature_gs_ros.page.live_session import LiveSession

        return LiveSession(self, client)

    def _wake(self) -> None:
        self._pending = True
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._stopping)
                if self._stopping:
                    return
                self._pending = False
                cloud, self._cloud = self._cloud, None
            gaussians = map_of_cloud(cloud) if cloud is not None else None
            if gaussians is not None:
                self.content = Content(Path(self.name), gaussians, Sim3.identity(), DataFolder("."))
            for session in self._server.sessions:
                session.guarded(lambda _, session=session: session.update())(None)  # type: ignore[misc]
            time.sleep(UPDATE_PERIOD)


def small(image: Image) -> Image:
    """An image as a browser gets it."""
    height, width = image.shape[:2]
    factor = min(1.0, MAX_IMAGE_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _columns(cloud: Cloud, *names: str) -> Tensor:
    return torch.from_numpy(np.stack([cloud[name] for name in names], axis=1))


def _as_keys(points: NDArray[np.float32]) -> NDArray[np.void]:
    """Each row of [N, 3] as one value of its bytes."""
    rows = np.ascontiguousarray(points, np.float32)
    keys: NDArray[np.void] = rows.view(np.dtype((np.void, rows.dtype.itemsize * 3)))[:, 0]
    return keys
