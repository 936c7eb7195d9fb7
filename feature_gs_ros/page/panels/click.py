"""Click: query by example with positive and negative points, and the names of objects."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.page.ask import ask_examples
from feature_gs_ros.page.click import Pick, pick_along_ray, pick_in_image
from feature_gs_ros.page.frusta import Frustum
from feature_gs_ros.page.limits import MAX_CLICKS
from feature_gs_ros.page.session import Session

if TYPE_CHECKING:
    import viser

EXAMPLE, NAME, NOTHING = "ask by example", "name the object", "nothing"


class ClickPanel:
    """What a click does, and what was clicked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._meant: list[tuple[NDArray[np.float64], Tensor]] = []
        self._not_meant: list[tuple[NDArray[np.float64], Tensor]] = []
        gui = session.client.gui
        does = [EXAMPLE] if session.content.segmenter else []
        does += [NAME] if session.content.identities else []
        with session.tabs.add_tab("Click"):
            self._does = gui.add_dropdown("on click", [*does, NOTHING])
            gui.add_html(
                '<div style="padding:0 1em;font-size:0.75em">Shift-click: negative example. On a camera\'s image: '
                "click to look from there, shift-click to ask by that pixel.</div>"
            )
            forget = gui.add_button("Clear clicks")
            self._shown = gui.add_html("")
        forget.on_click(session.guarded(lambda _: self._forget()))
        session.client.scene.on_click()(session.guarded(lambda event: self._clicked(event, meant=True)))
        session.client.scene.on_click(modifier="shift")(
            session.guarded(lambda event: self._clicked(event, meant=False))
        )

    def frustum_clicked(self, frustum: Frustum, pixel: tuple[float, float] | None, shifted: bool) -> None:
        """A click on a camera's image: the view goes there; with shift it asks by that pixel."""
        if not shifted:
            self._session.view.go_to(frustum)
        elif pixel is not None:
            self._session.guarded(lambda _: self._picked_in_image(frustum, pixel))(None)

    def _picked_in_image(self, frustum: Frustum, pixel: tuple[float, float]) -> None:
        self._act(pick_in_image(self._session.content, self._session.edited, frustum.known, *pixel), meant=True)

    def _clicked(self, event: viser.SceneClickEvent, *, meant: bool) -> None:
        if self._does.value == NOTHING or self._hits_image(event):
            return
        camera = event.client.camera
        focal = camera.image_height / (2 * np.tan(camera.fov / 2))
        session = self._session
        pick = pick_along_ray(session.content, session.edited, event.ray_origin, event.ray_direction, float(focal))
        self._act(pick, meant)

    def _hits_image(self, event: viser.SceneClickEvent) -> bool:
        """Whether the click is on a camera's image, which has its own callback."""
        return self._session.view.image_hit(event.ray_origin, event.ray_direction)

    def _act(self, pick: Pick | None, meant: bool) -> None:
        session = self._session
        if pick is None:
            session.say("the click hits nothing of the map", "error")
            return
        if self._does.value == NAME and session.content.identities is not None:
            self._name(pick)
            return
        if pick.feature is None or session.content.segmenter is None:
            raise PromptError(
                "no camera has seen what was clicked; click elsewhere",
                code="prompt.not-observed",
            )
        clicks = self._meant if meant else self._not_meant
        with session.lock:
            if len(self._meant) + len(self._not_meant) >= MAX_CLICKS:
                raise PromptError(
                    f"{MAX_CLICKS} points are clicked, no more are taken; forget the clicks first", code="prompt.range"
                )
            clicks.append((pick.point, pick.feature))
            session.view.show_clicks([p for p, _ in self._meant], [p for p, _ in self._not_meant])
        if not self._meant:
            session.say("negative example noted; now click a positive one")
            return
        with session.content.asking:
            asked = ask_examples(
                session.content.segmenter, [f for _, f in self._meant], [f for _, f in self._not_meant],
                None, session.among,
            )  # fmt: skip
        session.set_answers(asked)
        position = ", ".join(f"{value:.3f}" for value in pick.point)
        session.say(f"clicked ({position}) m of the map frame")
        session.settle()

    def _name(self, pick: Pick) -> None:
        session = self._session
        identities = session.content.identities
        assert identities is not None
        with session.content.asking:
            found = identities.at_weights(pick.weights)
        if found is None:
            self._shown.content = _line("background: no object is known here")
            session.view.show_boxes([])
            return
        size = " × ".join(f"{side:.3f}" for side in found.box.size) + " m" if found.box else "no extent"
        self._shown.content = _line(
            f"{found.name}: {size}, {found.gaussians} Gaussians, confidence {found.confidence:.2f}"
        )
        if found.box is not None:
            session.view.show_boxes([(found.box, (40, 190, 190), found.name)])

    def _forget(self) -> None:
        with self._session.lock:
            self._meant.clear()
            self._not_meant.clear()
            self._shown.content = ""
            self._session.view.show_clicks([], [])
            self._session.view.show_boxes([])
            self._session.set_answers(None)


def _line(text: str) -> str:
    return f'<div data-object style="padding:0.3em 1em;font-size:0.85em">{html.escape(text)}</div>'
