"""A camera's image in the scene that is painted on: by dragging, and by clicks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from feature_gs_ros.core.camera import Image
from feature_gs_ros.page.drawing import Drawing, Pixel
from feature_gs_ros.page.frusta import Frustum
from feature_gs_ros.page.latest import Latest
from feature_gs_ros.page.scene import add_image
from feature_gs_ros.pictures import overlay_mask

if TYPE_CHECKING:
    import viser

MARK = (255, 60, 200)  # of what is painted: no thing's usual colour
PANEL_FRACTION = 0.32  # of the window's width, under the panel
MARGIN = 1.08  # around the image


class Canvas:
    """One browser's; `close` takes it away."""

    def __init__(self, client: viser.ClientHandle, frustum: Frustum, image: Image) -> None:
        """
        Args:
            image: [H, W, 3], of the frustum's camera, at any size.
        """
        self._client = client
        self._frustum = frustum
        self.image = image
        self._last: Pixel | None = None  # of the stroke that goes on
        self._guard = threading.Lock()
        self._closed = False
        self._came_from = client.camera.position, client.camera.wxyz
        self._redraw = Latest(self._send)
        self.drawing = Drawing(*image.shape[:2])
        self.radius = 8.0  # px
        self.erase = False
        self.on_change: Callable[[], None] = lambda: None
        self._node = add_image(client.scene, "/canvas", frustum, self._picture())
        self._node.on_drag(self._dragged)
        self._node.on_click(self._clicked)

    @property
    def frame(self) -> str:
        """Name of the stream's frame that is painted on."""
        return self._frustum.known.name

    def look_at(self) -> None:
        """The browser looks straight at the image, which stands beside the panel."""
        camera = self._client.camera
        height = 2 * np.tan(camera.fov / 2)  # of what is seen, per distance
        width = height * camera.image_width / max(1, camera.image_height)
        wide, high = self._frustum.image_size
        distance = MARGIN * max(high / height, wide / (width * (1 - PANEL_FRACTION)))
        aside = np.array([width * distance * PANEL_FRACTION / 2, 0.0, -distance])
        with self._client.atomic():
            camera.position = self._frustum.image_centre + self._frustum.rotation @ aside
            camera.wxyz = self._frustum.quat_wxyz

    def undo(self) -> bool:
        """Take the last stroke back; whether there was one."""
        with self._guard:
            undone = self.drawing.undo()
        self._redraw()
        return undone

    def clear(self) -> None:
        """Erase everything."""
        with self._guard:
            self.drawing.clear()
        self._redraw()

    def close(self) -> None:
        """Take the image away; the browser looks from where it did before."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            self._node.remove()
        with self._client.atomic():
            self._client.camera.position, self._client.camera.wxyz = self._came_from

    # Of viser's callbacks only coroutines keep their order. They note the stroke; a thread sends the picture.

    async def _dragged(self, event: viser.SceneNodeDragEvent[viser.ImageHandle]) -> None:
        start, end = self._pixel_of(event.start_position), self._pixel_of(event.end_position)
        self._paint(event.phase == "start", start if event.phase == "start" else self._last, end)
        self._last = None if event.phase == "end" else end

    async def _clicked(self, event: viser.SceneNodePointerEvent[viser.ImageHandle]) -> None:
        pixel = self._pixel_of_ray(event.ray_origin, event.ray_direction)
        self._paint(True, pixel, pixel)

    def _paint(self, begins: bool, start: Pixel | None, end: Pixel | None) -> None:
        with self._guard:
            if self._closed:
                return
            if begins:
                self.drawing.begin()
            if end is not None:
                self.drawing.stroke(start or end, end, self.radius, self.erase)
        asyncio.get_running_loop().run_in_executor(None, self._redraw)

    def _pixel_of(self, point: tuple[float, float, float]) -> Pixel | None:
        """Of the image, behind a point that the pointer is at; None outside."""
        position = self._client.camera.position
        return self._pixel_of_ray(position, np.asarray(point, np.float64) - position)

    def _pixel_of_ray(self, origin: ArrayLike, direction: ArrayLike) -> Pixel | None:
        found = self._frustum.pixel_of_ray(origin, direction)
        if found is None:
            return None
        height, width = self.image.shape[:2]  # a field's own images may be smaller than the camera's
        camera = self._frustum.known.camera
        return found[0] * width / camera.width, found[1] * height / camera.height

    def _picture(self) -> Image:
        return overlay_mask(self.image, self.drawing.mask, MARK, rest=1.0)

    def _send(self) -> None:
        picture = self._picture()
        with self._guard:
            if not self._closed:
                self._node.image = picture
        self._client.flush()
        self.on_change()
