"""Export: the segment as a PLY, the answer as JSON, the picture of the view, the command that repeats the answer."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal, cast

import cv2
import numpy as np

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.placing import transformed
from feature_gs_ros.io.splats.registry import WRITTEN, save_map
from feature_gs_ros.page.ask import command_of
from feature_gs_ros.page.browser import set_value
from feature_gs_ros.page.session import Session
from feature_gs_ros.query.answers import as_json, objects_of
from feature_gs_ros.query.masks_3d import Answer, State

FRAMES = ("splat", "map")
MAX_PICTURE_PIXELS = 1600  # along the longer side
RENDER_SECONDS = 30.0  # that a browser may take for a picture


class ExportPanel:
    """Downloads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        gui = session.client.gui
        with session.tabs.add_tab("Export"):
            if session.content.segmenter is not None:
                self._frame = gui.add_dropdown(
                    "frame", FRAMES, hint="splat: as in the map's file; map: metres, as the boxes"
                )
                self._format = gui.add_dropdown(
                    "format", tuple(WRITTEN), initial_value=".ply", hint="the others are lossy"
                )
                segment, answer = gui.add_button("Segment as map file"), gui.add_button("Answer as JSON")
                segment.on_click(session.guarded(lambda _: self._segment()))
                answer.on_click(session.guarded(lambda _: self._json()))
            picture = gui.add_button("Screenshot")
            if session.content.segmenter is not None:
                self._command = gui.add_text("command", "", multiline=True, hint="repeats the answer in a terminal")
                session.on_answers.append(self._tell_command)
        picture.on_click(session.guarded(lambda _: self._picture()))

    def _answer(self) -> Answer:
        answer = self._session.answer
        if answer is None:
            raise PromptError("nothing was asked yet; ask or click first", code="prompt.empty")
        return answer

    def _segment(self) -> None:
        answer = self._answer()
        if answer.state is not State.FOUND:
            raise PromptError(f"there is no segment to export: {answer.message}", code="prompt.missing")
        frame = cast("Literal['splat', 'map']", self._frame.value)
        suffix = self._format.value
        self._send(f"{_file_name(answer.prompt)}{suffix}", segment_bytes(self._session, answer, frame, suffix))

    def _json(self) -> None:
        answer, segmenter = self._answer(), self._session.content.segmenter
        assert segmenter is not None
        content = as_json(answer, objects_of(segmenter, answer))
        self._send(f"{_file_name(answer.prompt)}.json", (json.dumps(content, indent=1) + "\n").encode())

    def _picture(self) -> None:
        client = self._session.client
        width, height = client.camera.image_width, client.camera.image_height
        scale = min(1.0, MAX_PICTURE_PIXELS / max(width, height))
        self._session.say("the browser renders the view …", "busy")
        try:
            image = client.get_render(
                max(1, round(height * scale)), max(1, round(width * scale)), transport_format="png",
                timeout=RENDER_SECONDS,
            )  # fmt: skip
        except TimeoutError as error:
            raise PromptError(
                "the browser rendered nothing in time; keep its tab in front and try again", code="prompt.timeout"
            ) from error
        done, data = cv2.imencode(".png", np.asarray(image)[:, :, 2::-1])
        assert done
        self._send("view.png", data.tobytes())

    def _send(self, name: str, content: bytes) -> None:
        self._session.client.send_file_download(name, content, save_immediately=True)
        self._session.say(f"sent {name}, {len(content) / 1e6:.2f} MB")

    def _tell_command(self) -> None:
        asked = self._session.asked
        try:
            set_value(self._command, command_of(self._session.content, asked, self._session.chosen) if asked else "")
        except PromptError as error:
            set_value(self._command, f"# {error}")


def segment_bytes(session: Session, answer: Answer, frame: Literal["splat", "map"], suffix: str = ".ply") -> bytes:
    """The found Gaussians with their similarity, byte by byte what `feature-gs query --cloud` writes."""
    content = session.content
    part = content.gaussians.select(answer.mask)
    if frame == "map":
        part = transformed(part, content.splat_from_map.inverse())
    with tempfile.TemporaryDirectory(prefix="feature-gs-page-") as folder:
        path = Path(folder) / f"segment{suffix}"
        save_map(part, path, {"similarity": answer.similarity[answer.mask]})
        return path.read_bytes()


def _file_name(prompt: str) -> str:
    kept = "".join(character if character.isalnum() else "_" for character in prompt)
    return kept[:60] or "answer"
