"""Streams by role, on a card that is played: what must come before something has come before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from feature_gs_ros.numerics import streams

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")


class PlayedStream:
    """Knows what was given to it, and what it waited for."""

    def __init__(self, device: Any = CARD, priority: int = 0) -> None:
        self.device, self.priority, self.done = device, priority, frozenset[str]()

    def give(self, work: str) -> None:
        self.done |= {work}

    def wait_stream(self, other: PlayedStream) -> None:
        self.done |= other.done

    def record_event(self) -> frozenset[str]:
        return self.done

    def wait_event(self, event: frozenset[str]) -> None:
        self.done |= event


class PlayedCard(SimpleNamespace):
    """`torch.cuda`, of one thread."""

    def __init__(self) -> None:
        super().__init__(Stream=PlayedStream)
        self.current = PlayedStream()

    def current_stream(self, device: torch.device) -> PlayedStream:
        assert device == CARD
        return self.current

    def set_stream(self, stream: PlayedStream) -> None:
        self.current = stream

    @contextmanager
    def stream(self, stream: PlayedStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedCard]:
    made = PlayedCard()
    monkeypatch.setattr(streams, "cuda", made)
    streams.stream_of.cache_clear()
    yield made
    streams.stream_of.cache_clear()


def give(card: PlayedCard, work: str) -> None:
    card.current.give(work)


def test_roles_do_not_wait_for_each_other(card: PlayedCard) -> None:
    with streams.on("extractor", CARD):
        give(card, "network")
    with streams.on("queries", CARD):
        give(card, "scores")
        assert card.current.done == {"scores"}
        assert card.current.priority < 0  # someone waits for the answer
    give(card, "own")
    assert card.current.done == {"own"}


def test_a_thread_stays_on_its_stream(card: PlayedCard) -> None:
    streams.stay_on("ingestion", CARD)
    give(card, "views")
    with streams.on("ingestion", CARD):
        assert card.current.done == {"views"}


def test_what_follows_a_role_comes_after_it(card: PlayedCard) -> None:
    recorded: list[PlayedStream] = []
    grid: Any = SimpleNamespace(device=CARD, record_stream=recorded.append)
    with streams.on("extractor", CARD):
        give(card, "network")
    with streams.on("ingestion", CARD):
        streams.follow("extractor", CARD, grid)
        give(card, "view")
        assert card.current.done == {"network", "view"}
        assert recorded == [card.current]  # its memory is kept until the view is done


def test_inserted_work_comes_between(card: PlayedCard) -> None:
    with streams.on("queries", CARD):
        give(card, "before")
        with streams.inserted("ingestion", CARD):
            give(card, "sums")
            assert card.current.done == {"before", "sums"}
        give(card, "after")
        assert card.current.done == {"before", "sums", "after"}


def test_holders_of_a_lock_come_one_after_another(card: PlayedCard) -> None:
    lock = streams.OrderedLock(CARD)
    with streams.on("ingestion", CARD), lock:
        give(card, "view")
    with streams.on("ingestion", CARD):
        give(card, "later")
    with streams.on("queries", CARD), lock:
        assert card.current.done == {"view"}
        give(card, "scores")
    with streams.on("ingestion", CARD):
        lock.__enter__()
        give(card, "half")
        lock.__exit__(ValueError, ValueError("fails"), None)
    with lock:
        assert card.current.done == {"view", "scores", "half", "later"}


def test_on_the_host_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "cuda", None)
    tensor = torch.arange(3)
    with streams.on("queries", HOST), streams.inserted("ingestion", HOST), streams.OrderedLock(HOST):
        streams.stay_on("extractor", HOST)
        streams.follow("extractor", HOST, tensor)
        streams.keep(HOST, tensor)
    assert streams.upload(tensor, HOST) is tensor
    assert streams.upload(tensor, HOST, torch.float32).dtype == torch.float32


def test_an_upload_does_not_wait() -> None:
    """From page-locked memory, which a copy needs that goes on by itself."""

    class Pinned:
        device, nbytes = HOST, 1000

        def __init__(self) -> None:
            self.steps: tuple[str, ...] = ()

        def pin_memory(self) -> Pinned:
            self.steps = (*self.steps, "pinned")
            return self

        def to(self, *_: object, non_blocking: bool = False) -> Pinned:
            if non_blocking:
                self.steps = (*self.steps, "copied")
            return self

    found: Any = streams.upload(Pinned(), CARD, torch.float32)  # type: ignore[arg-type]
    assert found.steps == ("pinned", "copied")
    large = Pinned()
    large.nbytes = 2 * streams.MAX_PINNED
    assert streams.upload(large, CARD) is large  # type: ignore[arg-type, comparison-overlap]
    assert large.steps == ()  # by an ordinary copy
