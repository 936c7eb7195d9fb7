"""LiveSession: one browser on a running robot's page, with its own question."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.geometry import rigid_inverse
from feature_gs_ros.page.ask import prompts_of
from feature_gs_ros.page.browser import BrowserSession
from feature_gs_ros.page.colors import CHANGE, PICTURE, Overlay, answer_color, base_colors, change_colors, legend
from feature_gs_ros.page.latest import Latest
from feature_gs_ros.page.live import EditName, LiveAnswer, LiveFrame, LivePage, rows_of_points, small
from feature_gs_ros.page.panels.looks import state_box
from feature_gs_ros.page.scene import SceneView, look_from_start
from feature_gs_ros.page.splats import SplatLayer
from feature_gs_ros.query.masks_3d import State

if TYPE_CHECKING:
    import viser

    from feature_gs_ros.page.content import Content

MAX_LISTED = 5  # boxes of an answer in words


class LiveSession(BrowserSession):
    """What one browser sees and has asked. Edits are the robot's own: all see them."""

    def __init__(self, page: LivePage, client: viser.ClientHandle) -> None:
        super().__init__(client)
        self._page = page
        self._content: Content | None = None  # that is shown
        self._view: SceneView | None = None
        self._layer: SplatLayer | None = None
        self._answers: list[LiveAnswer] = []
        self._masks: tuple[Tensor, ...] = ()
        self._frame: LiveFrame | None = None
        self._started = False
        self._again = Latest(self._ask)

    def start(self) -> None:
        """The panel, then the map as soon as it is there."""
        gui = self.client.gui
        self._node = gui.add_html("")
        with gui.add_form("Ask") as form:
            self._text = gui.add_text("prompt", "", hint="what to look for; separate several prompts by commas")
            self._negative = gui.add_text(
                "negative prompts", "", hint="competing words; a Gaussian goes to the most similar one"
            )
            ask = gui.add_button("Ask", icon=None)
        self._threshold = gui.add_slider(
            "threshold", 0.0, 1.0, 0.01, 0.0, hint="on the similarity; 0 is the extractor's own"
        )
        self._shown = gui.add_html("")
        tabs = gui.add_tab_group()
        with tabs.add_tab("Camera"):
            self._image = gui.add_image(np.full((3, 4, 3), 200, np.uint8), format="jpeg", jpeg_quality=80)
            self._pose = gui.add_html("")
        with tabs.add_tab("Show"):
            self._mode = gui.add_dropdown("colour by", (PICTURE, CHANGE))
            self._legend = gui.add_html("")
        with tabs.add_tab("Edit"):
            gui.add_html(_small("Of the robot's own map, for everybody: what the prompt finds."))
            delete, extract = gui.add_button("Delete"), gui.add_button("Keep only this")
            undo, redo = gui.add_button("Undo"), gui.add_button("Redo")
        ask.on_click(lambda _: form.submit())
        form.on_submit(self.guarded(lambda _: self._again()))
        self._threshold.on_update(self.guarded(self._moved))
        self._mode.on_update(self.guarded(lambda _: self._colour()))
        buttons: tuple[tuple[viser.GuiButtonHandle, EditName], ...] = (
            (delete, "delete"), (extract, "extract"), (undo, "undo"), (redo, "redo"),
        )  # fmt: skip
        for button, operation in buttons:
            button.on_click(self.guarded(lambda _, operation=operation: self._edit(operation)))  # type: ignore[misc]
        with self.lock:
            self._started = True
        self.say("waiting for the map …", "busy")
        self.update()

    def update(self) -> None:
        """Show what came from the robot since the last time."""
        with self.lock:
            if not self._started or self.closed.is_set():
                return
            self._node.content = f"<div data-node>{_small(self._page.status)}</div>"
            if self._page.content is not None and self._page.content is not self._content:
                self._show_map(self._page.content)
            frame = self._page.frame
            if frame is not None and frame is not self._frame:
                self._show_frame(frame)

    def _show_map(self, content: Content) -> None:
        first = self._content is None
        self._content = content
        if first:
            look_from_start(self.client, content)
            self._view = SceneView(self.client, content)
            self._view.add_ground()
        if self._layer is not None:
            self._layer.clear()
        self._layer = SplatLayer(self.client.scene, content.cloud)
        self._masks = tuple(rows_of_points(content.gaussians, answer.points) for answer in self._answers)
        colors, opacities = self._colors(content)
        self._layer.resize(len(content.gaussians), colors, opacities, lambda *_: self.closed.is_set())
        if first:
            self.say(f"{len(content.gaussians)} Gaussians of {self._page.name}")

    def _show_frame(self, frame: LiveFrame) -> None:
        self._frame = frame
        image = small(frame.image)
        self._image.image = image
        age = time.time() - frame.stamp_ns * 1e-9
        ago = f"{age:.1f} s ago" if 0 <= age < 3600 else f"at {frame.stamp_ns * 1e-9:.2f} s"
        if frame.camera_from_map is None:
            self._pose.content = _small(f"taken {ago}; nothing tells where the camera was")
            return
        pose = rigid_inverse(frame.camera_from_map)
        x, y, z = pose[:3, 3]
        self._pose.content = f"<div data-pose>{_small(f'taken {ago} at ({x:.2f}, {y:.2f}, {z:.2f}) m')}</div>"
        if self._view is not None:
            self._view.show_live(frame.camera, frame.camera_from_map, image)
        if self._mode.value == CHANGE:
            self._colour()

    def _moved(self, event: viser.GuiEvent[Any]) -> None:
        if event.client is not None and self._text.value.strip():
            self._again()

    def _ask(self) -> None:
        prompts = prompts_of(self._text.value)
        if not prompts:
            raise PromptError("the prompt is empty; ask for something, e.g. 'coffee mug'", code="prompt.empty")
        self.say("asking …", "busy")
        start = time.perf_counter()
        answers = self._page.robot.ask(prompts, prompts_of(self._negative.value), float(self._threshold.value))
        with self.lock:
            if self.closed.is_set():
                return
            self._answers = answers
            self._shown.content = "".join(_answer_html(answer, index) for index, answer in enumerate(answers))
            self.say(f"answered in {time.perf_counter() - start:.2f} s")
            self.client.flush()
            if self._content is not None and self._view is not None:
                gaussians = self._content.gaussians
                self._masks = tuple(rows_of_points(gaussians, answer.points) for answer in answers)
                self._view.show_boxes(
                    [(box, answer_color(index), answer.prompt) for index, answer in enumerate(answers)
                     for box in answer.boxes]
                )  # fmt: skip
                self._paint()

    def _edit(self, operation: EditName) -> None:
        text = self._text.value.strip()
        if operation in ("delete", "extract") and not text:
            raise PromptError("the prompt is empty; say what is to be edited", code="prompt.empty")
        self.say("editing …", "busy")
        self.say(self._page.robot.edit(operation, text))
        with self.lock:  # of the map as it was
            self._answers, self._masks = [], ()
            self._shown.content = ""
            if self._view is not None:
                self._view.show_boxes([])

    def _colour(self) -> None:
        with self.lock:
            self._legend.content = legend(self._mode.value)
            self._paint()

    def _paint(self) -> None:
        if self._layer is not None and self._content is not None:
            with self.client.atomic():
                self._layer.paint(*self._colors(self._content))

    def _colors(self, content: Content) -> tuple[Any, Any]:
        found = self._page.changes() if self._mode.value == CHANGE else None
        if found is not None and len(found.seen) == len(content.gaussians):
            colors = change_colors(found)
        else:
            colors = Overlay(self._masks).over(base_colors(content, content.gaussians, PICTURE))
        opacities = (content.gaussians.opacities.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
        return colors, opacities


def _answer_html(answer: LiveAnswer, index: int) -> str:
    lines = [answer.message, f"coverage {answer.coverage:.0%}, {answer.seconds:.2f} s"]
    if answer.state is State.FOUND:
        lines += [
            f"object {number}: {' × '.join(f'{side:.2f}' for side in box.size)} m at "
            f"({', '.join(f'{value:.2f}' for value in box.center)})"
            for number, box in enumerate(answer.boxes[:MAX_LISTED], start=1)
        ]
    return state_box(answer.prompt, answer.state, lines, answer_color(index))


def _small(text: str) -> str:
    return f'<div style="padding:0.2em 1em;font-size:0.8em">{html.escape(text)}</div>'
