"""One browser's scene: axes, ground grid, the remembered cameras with their images, the trajectory, boxes and marks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feature_gs_ros.affordance import Region
from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.geometry import rigid_inverse, rotation_from_quat_wxyz
from feature_gs_ros.page.colors import answer_color
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.frusta import Frustum
from feature_gs_ros.query.objects import OrientedBox

if TYPE_CHECKING:
    import viser

Array = NDArray[np.float64]

FRUSTUM_FRACTION = 0.08  # of the map's diagonal: how far before a camera its image stands
FRUSTUM_COLOR, TRAJECTORY_COLOR, LIVE_COLOR = (70, 110, 190), (230, 150, 40), (40, 160, 90)
ARROW = 0.08  # m, of a gripper's way
POINT_COLORS = {True: (60, 200, 80), False: (230, 60, 60)}  # clicks: positive, negative

ClickedFrustum = Callable[[Frustum, tuple[float, float] | None, bool], None]  # with pixel and whether shift was held


class SceneView:
    """What stands around the splats. Everything is in the map frame, in metres."""

    def __init__(self, client: viser.ClientHandle, content: Content) -> None:
        self._client = client
        self._scene = client.scene
        self._content = content
        low, high = content.bounds
        self.diagonal = float(np.linalg.norm(high - low))
        depth = FRUSTUM_FRACTION * self.diagonal
        self.frusta = tuple(Frustum.of(content, known, depth) for known in content.views)
        self._switched: dict[str, list[viser.SceneNodeHandle]] = {}
        self._off: set[str] = set()  # what was switched off
        self._shown = True
        self._boxes: list[viser.SceneNodeHandle] = []
        self._regions: list[viser.SceneNodeHandle] = []
        self._images: dict[Frustum, viser.ImageHandle] = {}
        self._looked_from: Frustum | None = None

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Of the frusta, in their order."""
        return tuple(f"{number} · {frustum.known.name}" for number, frustum in enumerate(self.frusta, start=1))

    def add_ground(self) -> None:
        """Axes at the map frame's origin, and a grid in its ground plane."""
        low, high = self._content.bounds
        cell = grid_cell(self.diagonal)
        side = float(max(high[:2] - low[:2])) * 1.5
        middle = (low + high) / 2
        axes = self._scene.add_frame("/map", axes_length=0.1 * self.diagonal, axes_radius=0.002 * self.diagonal)
        grid = self._scene.add_grid(
            "/ground",
            width=side,
            height=side,
            cell_size=cell,
            section_size=10 * cell,
            position=(float(round(middle[0] / cell) * cell), float(round(middle[1] / cell) * cell), 0.0),
        )
        self._switched["ground"] = [axes, grid]

    def add_cameras(self, clicked: ClickedFrustum, stop: threading.Event) -> None:
        """Frusta, the trajectory, then the images as they are read."""
        nodes: list[viser.SceneNodeHandle] = []
        self._switched["cameras"] = nodes
        if not self.frusta:
            return
        lines = np.concatenate([frustum.lines() for frustum in self.frusta]).astype(np.float32)
        nodes.append(
            self._scene.add_line_segments(
                "/cameras/frusta", lines, FRUSTUM_COLOR, thickness=1.5, thickness_units="screen"
            )
        )
        path = self._content.trajectory.astype(np.float32)
        if len(path) > 1:
            steps = np.stack([path[:-1], path[1:]], axis=1)
            nodes.append(
                self._scene.add_line_segments(
                    "/cameras/trajectory", steps, TRAJECTORY_COLOR, thickness=2.0, thickness_units="screen"
                )
            )
        images = self._content.thumbnails(stop)
        for index, frustum in enumerate(self.frusta):
            if stop.is_set():
                return
            if frustum.known.name in images:
                node = self._add_image(f"/cameras/image{index}", frustum, images[frustum.known.name], clicked)
                self._images[frustum] = node
                nodes.append(node)
                node.visible = self._shown and "cameras" not in self._off

    def _add_image(self, name: str, frustum: Frustum, image: Image, clicked: ClickedFrustum) -> viser.ImageHandle:
        node = add_image(self._scene, name, frustum, image)

        def tell(event: viser.SceneNodePointerEvent[viser.ImageHandle], shifted: bool) -> None:
            clicked(frustum, frustum.pixel_of_ray(event.ray_origin, event.ray_direction), shifted)

        node.on_click(lambda event: tell(event, False))
        node.on_click(modifier="shift")(lambda event: tell(event, True))
        return node

    def switch(self, what: str, visible: bool) -> None:
        """Show or hide ``ground`` or ``cameras``."""
        (self._off.discard if visible else self._off.add)(what)
        self._update(what)

    def show(self, visible: bool) -> None:
        """Show or hide everything; what was switched off stays so."""
        self._shown = visible
        for what in self._switched:
            self._update(what)
        for node in (*self._boxes, *self._regions):
            node.visible = visible

    def _update(self, what: str) -> None:
        for node in self._switched.get(what, []):
            node.visible = self._shown and what not in self._off

    def image_hit(self, origin: ArrayLike, direction: ArrayLike) -> bool:
        """Whether a ray of the map frame meets a camera's image that is shown."""
        shown = [frustum for frustum, node in self._images.items() if node.visible]
        return any(frustum.pixel_of_ray(origin, direction) is not None for frustum in shown)

    def go_to(self, frustum: Frustum) -> None:
        """The browser looks from where the camera was; its image is out of the way meanwhile."""
        camera = self._client.camera
        if self._looked_from in self._images:
            self._images[self._looked_from].visible = True
        if frustum in self._images:
            self._images[frustum].visible = False
        self._looked_from = frustum
        with self._client.atomic():
            camera.fov = frustum.vertical_fov
            camera.position = frustum.centre
            camera.wxyz = frustum.quat_wxyz

    def show_boxes(self, boxes: Sequence[tuple[OrientedBox, tuple[int, int, int], str]]) -> None:
        """Boxes, each with its colour and its label, instead of those shown so far."""
        for node in self._boxes:
            node.remove()
        self._boxes.clear()
        for index, (box, color, label) in enumerate(boxes):
            self._boxes.append(
                self._scene.add_line_segments(
                    f"/boxes/{index}", box_lines(box).astype(np.float32), color, thickness=2.5, thickness_units="screen"
                )
            )
            top = box.center + np.array([0, 0, float(np.linalg.norm(box.size)) / 2])
            self._boxes.append(self._scene.add_label(f"/labels/{index}", label, position=top))

    def show_regions(self, regions: Sequence[Region]) -> None:
        """Affordances' regions instead of those shown so far: an arrow the way a gripper comes, its width across."""
        for node in self._regions:
            node.remove()
        self._regions.clear()
        for index, region in enumerate(regions):
            color = answer_color(region.label - 1)
            arrow = np.array([[region.center - ARROW * region.approach, region.center]], np.float32)
            half = region.closing * region.gripper_width / 2
            across = np.array([[region.center - half, region.center + half]], np.float32)
            scene = self._scene
            self._regions += [
                scene.add_arrows(
                    f"/regions/{index}/approach", arrow, color,
                    shaft_radius=ARROW / 25, head_radius=ARROW / 10, head_length=ARROW / 4,
                ),
                scene.add_line_segments(
                    f"/regions/{index}/gripper", across, (255, 255, 255), thickness=4.0, thickness_units="screen"
                ),
                scene.add_label(
                    f"/regions/{index}/name", f"{region.affordance}: {100 * region.gripper_width:.1f} cm",
                    position=region.center - 1.15 * ARROW * region.approach,
                ),
            ]  # fmt: skip

    def show_live(self, camera: Camera, camera_from_map: Array, image: Image) -> None:
        """A moving camera where it is now, with its image.

        Args:
            camera: pinhole.
            camera_from_map: [4, 4].
            image: at any size.
        """
        pose = rigid_inverse(camera_from_map)
        known = KnownView("live", camera, camera_from_map)
        frustum = Frustum(known, pose[:3, :3], pose[:3, 3], FRUSTUM_FRACTION * self.diagonal)
        lines = frustum.lines().astype(np.float32)
        self._scene.add_line_segments("/live/frustum", lines, LIVE_COLOR, thickness=2.5, thickness_units="screen")
        add_image(self._scene, "/live/image", frustum, image)

    def show_clicks(self, meant: Sequence[Array], not_meant: Sequence[Array]) -> None:
        """Points [3] that were clicked."""
        for index, (points, kind) in enumerate(((meant, True), (not_meant, False))):
            name = f"/clicks/{index}"
            if points:
                self._scene.add_point_cloud(
                    name, np.array(points, np.float32), POINT_COLORS[kind],
                    point_size=0.006 * self.diagonal, point_shape="circle", precision="float32",
                )  # fmt: skip
            else:
                self._scene.remove_by_name(name)


def start_camera(content: Content) -> tuple[Array, Array, float]:
    """Where a browser begins: position and point looked at [3] m, and vertical field of view in radians."""
    low, high = content.bounds
    middle = (low + high) / 2
    if content.views:
        seen_from = Frustum.of(content, content.views[len(content.views) // 2], 1.0)
        away = seen_from.centre - middle
        up = np.array([0.0, 0.0, 0.3 * float(np.linalg.norm(away))])
        return middle + 1.1 * away + up, middle, seen_from.vertical_fov
    return middle + float(np.linalg.norm(high - low)) * np.array([0.6, -0.8, 0.6]), middle, 0.9


def look_from_start(client: viser.ClientHandle, content: Content) -> None:
    """The browser looks from where it is to begin."""
    position, looked_at, fov = start_camera(content)
    with client.atomic():
        client.camera.position = position
        client.camera.look_at = looked_at
        client.camera.fov = fov


def add_image(scene: viser.SceneApi, name: str, frustum: Frustum, image: Image) -> viser.ImageHandle:
    """An image that stands before its camera."""
    width, height = frustum.image_size
    return scene.add_image(
        name, image, width, height, format="jpeg", jpeg_quality=80, wxyz=frustum.quat_wxyz,
        position=frustum.image_centre, cast_shadow=False, receive_shadow=False,
    )  # fmt: skip


def grid_cell(diagonal: float) -> float:
    """Side [m] of the ground's squares for a map of this diagonal: 1 to a power of ten."""
    return float(10.0 ** np.floor(np.log10(max(diagonal, 1e-9) / 2)))


def box_lines(box: OrientedBox) -> Array:
    """The edges [12, 2, 3] m of a box, map frame."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), axis=-1).reshape(8, 3)
    corners = (signs * box.size / 2) @ rotation_from_quat_wxyz(box.quat_wxyz).T + box.center
    pairs = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(signs[a] - signs[b]).sum() == 2]
    return np.array([[corners[a], corners[b]] for a, b in pairs])
