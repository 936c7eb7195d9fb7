"""Ask in words: prompts, negatives, suggestions, the threshold, and what the answers say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from feature_gs_ros.core.errors import UnknownPromptError
from feature_gs_ros.extractors.base import known_words
from feature_gs_ros.page.ask import ask_words, prompts_of, suggestions, threshold_range
from feature_gs_ros.page.browser import set_value
from feature_gs_ros.page.colors import answer_color
from feature_gs_ros.page.latest import Latest, Paused
from feature_gs_ros.page.panels.looks import state_box
from feature_gs_ros.page.session import Session
from feature_gs_ros.query.masks_3d import Answer
from feature_gs_ros.query.objects import FoundObject

if TYPE_CHECKING:
    import viser

MAX_LISTED = 5  # objects of an answer in words
PAUSE = 0.3  # s after the threshold's last step, before a second look is taken and objects are made


class AskPanel:
    """A text box and what belongs to it."""

    def __init__(self, session: Session) -> None:
        assert session.content.segmenter is not None
        self._session = session
        self._segmenter = session.content.segmenter
        self._words = known_words(self._segmenter.extractor)
        self._suggested: viser.GuiButtonGroupHandle | None = None
        gui = session.client.gui
        rule = self._segmenter.extractor.text_rule
        low, high = threshold_range(rule)
        with gui.add_form("Ask") as form:
            self._text = gui.add_text("prompt", "", hint="what to look for; separate several prompts by commas")
            self._negative = gui.add_text(
                "negative prompts", "", hint="competing words; a Gaussian goes to the most similar one"
            )
            ask = gui.add_button("Ask", icon=None)
            self._order = gui.add_html("")  # suggestions stand behind it
        self._threshold = gui.add_slider(
            "threshold", low, high, (high - low) / 200, min(max(rule.threshold, low), high),
            hint="on the similarity; acts at once",
        )  # fmt: skip
        self._shown = gui.add_html("")
        self._again = Latest(self._at_threshold)
        self._paint = Paused(session.repaint, PAUSE)
        self._settle = Paused(lambda: session.guarded(lambda _: session.settle())(None), PAUSE)
        ask.on_click(lambda _: form.submit())
        form.on_submit(session.guarded(self._ask))
        self._text.on_update(session.guarded(self._suggest))
        self._threshold.on_update(session.guarded(self._moved))
        session.on_answers.append(self.show)

    def ask(self, text: str) -> None:
        """Ask as if it were typed."""
        set_value(self._text, text)
        self._run(text, [])

    def _ask(self, _: Any) -> None:
        self._run(self._text.value, prompts_of(self._negative.value))

    def _run(self, text: str, negatives: list[str]) -> None:
        session = self._session
        prompts = prompts_of(text)
        session.say("asking …", "busy")
        start = time.perf_counter()
        try:
            with session.content.asking:
                if session.closed.is_set():
                    return
                asked = ask_words(self._segmenter, prompts, negatives, None, session.among)
        except UnknownPromptError as error:
            self._offer(error.nearest)
            raise
        self._offer(())
        set_value(self._threshold, asked.question.threshold)
        session.set_answers(asked)
        session.say(f"answered in {time.perf_counter() - start:.2f} s")
        session.settle()

    def _moved(self, event: viser.GuiEvent[viser.GuiSliderHandle[float]]) -> None:
        if event.client is not None:  # a person, not an answer's own threshold
            self._again()

    def _at_threshold(self) -> None:
        session = self._session
        with session.lock:
            if session.asked is None or session.closed.is_set():
                return
            asked = session.asked.at(self._segmenter, float(self._threshold.value), session.among)
            # Without a GPU the next step's words would wait for this one's picture: it comes when the slider rests.
            session.set_answers(asked, paint=not session.software)
        if session.software:
            self._paint()
        self._settle()

    def _suggest(self, event: viser.GuiEvent[viser.GuiTextHandle]) -> None:
        if event.client is not None:
            self._offer(suggestions(self._words, self._text.value))

    def _offer(self, words: tuple[str, ...]) -> None:
        """Words to click, in place of those offered before."""
        with self._session.lock:
            if self._suggested is not None:
                self._suggested.remove()
                self._suggested = None
            if words:
                group = self._session.client.gui.add_button_group("words", words, order=self._threshold.order - 0.5)
                group.on_click(self._session.guarded(lambda _: self._take(group.value)))
                self._suggested = group

    def _take(self, word: str) -> None:
        """A suggestion stands for the last of the prompts."""
        *others, _ = self._text.value.split(",")
        self.ask(", ".join([*(other.strip() for other in others), word]))

    def show(self) -> None:
        """The answers in words."""
        session = self._session
        objects = session.objects or tuple([] for _ in session.answers)
        self._shown.content = "".join(
            answer_html(answer, found, index)
            for index, (answer, found) in enumerate(zip(session.answers, objects, strict=True))
        )


def answer_html(answer: Answer, objects: list[FoundObject], index: int) -> str:
    """An answer as a person reads it."""
    sizes = [
        f"object {number}: {' × '.join(f'{side:.2f}' for side in found.box.size)} m at "
        f"({', '.join(f'{value:.2f}' for value in found.box.center)}), similarity {found.score:.2f}"
        for number, found in enumerate(objects[:MAX_LISTED], start=1)
    ]
    numbers = f"coverage {answer.coverage:.0%}, threshold {answer.threshold:.2f}, {answer.seconds:.2f} s"
    return state_box(answer.prompt, answer.state, [answer.message, numbers, *sizes], answer_color(index))
