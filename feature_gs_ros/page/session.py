"""Session: one browser with its own query, clicks and edits. It ends with the browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.memory import give_back_freed_memory
from feature_gs_ros.editing import EditStack
from feature_gs_ros.page.ask import Asked
from feature_gs_ros.page.browser import BrowserSession
from feature_gs_ros.page.colors import CHANGE, PICTURE, SIMILARITY, Overlay, answer_color, base_colors, opacity_bytes
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.parts import Parts
from feature_gs_ros.page.scene import SceneView
from feature_gs_ros.page.splats import SplatCloud, SplatLayer
from feature_gs_ros.query.answers import objects_of
from feature_gs_ros.query.masks_3d import Answer
from feature_gs_ros.query.objects import FoundObject

if TYPE_CHECKING:
    import viser


class Session(BrowserSession):
    """What one browser sees, and has asked and edited. Panels change it, and call what shows the change."""

    def __init__(self, content: Content, client: viser.ClientHandle, software: bool = False) -> None:
        """
        Args:
            software: the browser draws without a GPU.
        """
        super().__init__(client)
        self.content = content
        self.software = software
        self.stack = EditStack(content.gaussians, content.splat_from_map.inverse())
        self.edited = self.stack.edited()
        self.asked: Asked | None = None
        self.objects: tuple[list[FoundObject], ...] = ()  # of each answer
        self.parts: Parts | None = None  # affordances, shown instead of answers
        self.chosen = 0  # index of the answer that is edited and taken away
        self.mode = PICTURE
        self.against: KnownView | None = None  # whose image the map is compared with
        self.dim = True
        self.unobserved = False
        self.on_answers: list[Callable[[], None]] = []  # called where there are new answers
        self.on_edits: list[Callable[[], None]] = []
        self.view = SceneView(client, content)
        self.layer = SplatLayer(client.scene, content.cloud)
        self._tabs: viser.GuiTabGroupHandle | None = None
        self._base_key: tuple[object, ...] = ()
        self._base = base_colors(content, content.gaussians, PICTURE)

    @property
    def tabs(self) -> viser.GuiTabGroupHandle:
        """Of the panels; they stand below what was added to the page before the first use."""
        if self._tabs is None:
            self._tabs = self.client.gui.add_tab_group()
        return self._tabs

    @property
    def answers(self) -> tuple[Answer, ...]:
        """To what was asked last."""
        return self.asked.answers if self.asked else ()

    @property
    def answer(self) -> Answer | None:
        """The one that is edited and taken away."""
        return self.answers[min(self.chosen, len(self.answers) - 1)] if self.answers else None

    @property
    def among(self) -> Tensor | None:
        """[N] bool, the Gaussians that are still there; None: all."""
        return None if bool(self.edited.present.all()) else self.edited.present

    def set_answers(self, asked: Asked | None, paint: bool = True) -> None:
        """Show other answers; a second look and boxes follow by `settle`.

        Args:
            paint: the splats, too, not the words alone.
        """
        with self.lock:
            self.asked, self.objects, self.parts = asked, (), None
            self.view.show_regions(())
            self.chosen = min(self.chosen, max(0, len(self.answers) - 1))
            for tell in self.on_answers:
                tell()
            self.client.flush()  # the words are there before the splats
            if paint:
                self.repaint()

    def show_parts(self, parts: Parts) -> None:
        """Show affordances with their regions, instead of answers."""
        with self.lock:
            if self.closed.is_set():
                return
            self.view.show_boxes([])
            self.set_answers(None)
            self.parts = parts
            self.view.show_regions(parts.regions)
            self.repaint()

    def aside(self, hidden: bool) -> None:
        """Take the map and what stands around it out of the way, or bring them back."""
        with self.lock, self.client.atomic():
            self.layer.show(not hidden)
            self.view.show(not hidden)

    def settle(self) -> None:
        """Take the second looks that are due, then show the objects with their boxes."""
        with self.lock:
            asked = self.asked
        segmenter = self.content.segmenter
        if segmenter is not None and asked is not None:
            with self.content.asking:
                looked = asked.settle(segmenter, self.among)
            with self.lock:
                if asked is not self.asked or self.closed.is_set():
                    return
                if looked is not asked:
                    self.set_answers(looked)
                    asked = looked
        objects = tuple(objects_of(segmenter, answer) for answer in self.answers) if segmenter and asked else ()
        with self.lock:
            if asked is not self.asked or self.closed.is_set():
                return
            self.objects = objects
            self.view.show_boxes(
                [
                    (found.box, answer_color(index), f"{answer.prompt} {found.score:.2f}")
                    for index, (answer, listed) in enumerate(zip(self.answers, objects, strict=True))
                    for found in listed
                ]
            )
            for tell in self.on_answers:
                tell()
        give_back_freed_memory()  # of its intermediate results

    def edits_changed(self) -> None:
        """Show the map after a change of the stack."""
        with self.lock:
            before, self.edited = self.edited, self.stack.edited()
            moved = self.edited.gaussians.means is not before.gaussians.means
            if moved:
                order = self.content.cloud.order
                cloud = SplatCloud.of(self.edited.gaussians, self.content.splat_from_map.inverse(), order)
                self.layer.place(cloud, *self._colors())
            else:
                self.repaint()
            for tell in self.on_edits:
                tell()
            segmenter = self.content.segmenter
            if self.parts is not None:  # of the map as it was
                self.set_answers(None)
            if self.asked is not None and segmenter is not None:  # of what is left of the map
                self.view.show_boxes([])
                self.set_answers(self.asked.at(segmenter, self.asked.question.threshold, self.among))

    def repaint(self) -> None:
        """Send the splats' colours where they changed."""
        with self.lock:
            if not self.closed.is_set():
                with self.client.atomic():
                    self.layer.paint(*self._colors())

    def load(self, count: int, progress: Callable[[int, int], bool] | None = None) -> None:
        """Show this many Gaussians, the most visible ones."""
        with self.lock:
            colors, opacities = self._colors()
            self.layer.resize(count, colors, opacities, progress)

    def _colors(self) -> tuple[Any, Any]:
        answer = self.answer if self.mode == SIMILARITY else None
        key = (self.mode, self.edited, answer, self.against if self.mode == CHANGE else None)
        if key != self._base_key:
            gaussians = self.edited.gaussians
            self._base = base_colors(self.content, gaussians, self.mode, answer, self.against)
            self._base_key = key
        unobserved = None
        if self.unobserved and self.content.segmenter is not None:
            unobserved = ~self.content.segmenter.field.seen
        masks: tuple[Tensor, ...] = ()
        if self.mode == PICTURE:
            masks = self.parts.masks if self.parts is not None else tuple(answer.mask for answer in self.answers)
        colors = Overlay(masks, unobserved, self.dim).over(self._base)
        return colors, opacity_bytes(self.edited.gaussians.opacities, self.edited.present)
