"""Affordances: paint a part on a camera's image, name it, and find parts like it on the map."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from feature_gs_ros.affordance import Region
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.page.canvas import Canvas
from feature_gs_ros.page.colors import answer_color
from feature_gs_ros.page.limits import MAX_NAME_CHARACTERS
from feature_gs_ros.page.panels.looks import state_box
from feature_gs_ros.page.parts import Parts, add_part, find_parts, library_path, open_library
from feature_gs_ros.page.session import Session

if TYPE_CHECKING:
    pass

PAINT, ERASE = "paint", "erase"
MAX_LISTED = 8  # regions in words


class AffordancePanel:
    """A canvas, a library in the page's folder, and what was found."""

    def __init__(self, session: Session) -> None:
        assert session.content.segmenter is not None
        self._session = session
        self._segmenter = session.content.segmenter
        self._canvas: Canvas | None = None
        self._cameras = session.view.camera_names
        gui = session.client.gui
        with session.tabs.add_tab("Affordances"):
            if self._cameras:
                self._camera = gui.add_dropdown("image", self._cameras, hint="of a camera, to paint a part on")
                paint = gui.add_button("Paint on this image")
                paint.on_click(session.guarded(lambda _: self._begin()))
            self._tools = gui.add_folder("Painting", visible=False)
            with self._tools:
                self._tool = gui.add_button_group("brush", (PAINT, ERASE))
                self._radius = gui.add_slider("radius", 1, 40, 1, 8, hint="pixels of the image")
                self._painted = gui.add_html("")
                undo, clear = gui.add_button("Undo stroke"), gui.add_button("Clear")
                self._name = gui.add_text("part", "", hint="its name, e.g. handle")
                self._object = gui.add_text(
                    "object", "", hint="the object it belongs to, e.g. coffee mug; may be empty"
                )
                add = gui.add_button("Add to the library")
                done = gui.add_button("Close the image", color="gray")
            self._library = gui.add_text(
                "library", "affordances.safetensors", hint=f"file in {session.content.folder.path}"
            )
            self._on = gui.add_text("search in", "", hint="an object, in words; empty: the whole map")
            find = gui.add_button("Find on the map")
            self._found = gui.add_html("")
        self._tool.on_click(session.guarded(lambda _: self._brush()))
        self._radius.on_update(session.guarded(lambda _: self._brush()))
        undo.on_click(session.guarded(lambda _: self._undo()))
        clear.on_click(session.guarded(lambda _: self._clear()))
        add.on_click(session.guarded(lambda _: self._add()))
        done.on_click(session.guarded(lambda _: self._leave()))
        find.on_click(session.guarded(lambda _: self._find()))
        session.on_answers.append(self._forget)

    def _begin(self) -> None:
        session = self._session
        frustum = session.view.frusta[self._cameras.index(self._camera.value)]
        image = session.content.image_of(frustum.known)
        with session.lock:
            self._leave()
            self._canvas = canvas = Canvas(session.client, frustum, image)
            canvas.on_change = self._tell_painted
            session.aside(True)
            self._tools.visible = True
            self._brush()
            self._tell_painted()
            canvas.look_at()
        session.say("drag over the part to paint it; the wheel zooms")

    def _leave(self) -> None:
        with self._session.lock:
            if self._canvas is not None:
                self._canvas.close()
                self._canvas = None
                self._tools.visible = False
                self._session.aside(False)

    def _brush(self) -> None:
        if self._canvas is not None:
            self._canvas.erase = self._tool.value == ERASE
            self._canvas.radius = float(self._radius.value)

    def _undo(self) -> None:
        if self._canvas is not None and not self._canvas.undo():
            raise AffordanceError("there is no stroke to undo", code="affordance.empty")

    def _clear(self) -> None:
        if self._canvas is not None:
            self._canvas.clear()

    def _tell_painted(self) -> None:
        canvas = self._canvas
        if canvas is None:
            return
        self._painted.content = (
            f'<div data-painted="{canvas.drawing.pixels}" style="padding:0 1em;font-size:0.8em">'
            f"{canvas.drawing.pixels} pixels are painted with the tool “{html.escape(self._tool.value)}”</div>"
        )

    def _add(self) -> None:
        session, canvas = self._session, self._canvas
        if canvas is None:
            return
        if len(self._name.value) > MAX_NAME_CHARACTERS or len(self._object.value) > MAX_NAME_CHARACTERS:
            raise AffordanceError(
                f"names have up to {MAX_NAME_CHARACTERS} characters; choose shorter ones", code="affordance.range"
            )
        path = library_path(session.content.folder, self._library.value)
        session.say("the extractor looks at the image …", "busy")
        with session.content.asking:
            name, library = add_part(
                path, self._segmenter.extractor, canvas.image, canvas.drawing.mask,
                affordance=self._name.value, object_word=self._object.value, frame=canvas.frame,
            )  # fmt: skip
        session.say(f"added '{name}'; the library {path.name} has {len(library)} sources: find them on the map")

    def _find(self) -> None:
        session = self._session
        library = open_library(library_path(session.content.folder, self._library.value), self._segmenter.extractor)
        if not library.sources:
            raise AffordanceError(
                f"the library '{self._library.value}' is empty; paint a part and add it first", code="affordance.empty"
            )
        session.say("searching the map …", "busy")
        with session.content.asking:
            if session.closed.is_set():
                return
            parts = find_parts(self._segmenter, library, self._on.value, session.among)
        self._leave()
        session.show_parts(parts)
        self._found.content = parts_html(parts)
        session.say(f"{len(parts.regions)} regions ({parts.transferred.seconds:.1f} s)")

    def _forget(self) -> None:
        """Something else is shown now."""
        if self._session.parts is None and self._found.content:
            self._found.content = ""


def parts_html(parts: Parts) -> str:
    """What was found as a person reads it: each affordance with its state, each region with its gripper width."""
    boxes = []
    for index, (affordance, state) in enumerate(parts.states.items()):
        regions = [region for region in parts.regions if region.affordance == affordance]
        lines = [parts.message] if index == 0 else []
        lines += [_region_line(number, region) for number, region in enumerate(regions[:MAX_LISTED], start=1)]
        boxes.append(state_box(affordance, state, lines, answer_color(index)))
    return "".join(boxes)


def _region_line(number: int, region: Region) -> str:
    center = ", ".join(f"{value:.2f}" for value in region.center)
    return (
        f"region {number}: gripper {100 * region.gripper_width:.1f} cm at ({center}) m, "
        f"similarity {region.similarity:.2f}, coverage {region.coverage:.0%}"
    )
