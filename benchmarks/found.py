"""How often a field says *found*: of words that are absent, and of present ones with few views.

``python -m benchmarks found MAP STREAM ALIGNMENT WORD… [--step N] [--draws N]``: the words are those that are present.
"""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import ingest
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.backprojection.provenance import Provenance
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.imagenet import FIRST_WORDS, ImageNetExtractor
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.query.masks_3d import Segmenter, State
from feature_gs_ros.query.smoothing import GaussianGraph

AT_ONCE = 20  # absent words asked in one pass
VIEWS = (3, 8)  # of a draw, at least and at most


def command(words: Sequence[str]) -> int:
    """Print which absent words are found, and how often the present ones are."""
    parser = ArgumentParser(prog="python -m benchmarks found", description=__doc__)
    parser.add_argument("map", type=Path)
    parser.add_argument("stream", type=Path)
    parser.add_argument("alignment", type=Path)
    parser.add_argument("present", nargs="+")
    parser.add_argument("--step", type=int, default=1, help="ask every n-th of the absent words")
    parser.add_argument("--draws", type=int, default=50, help="fields of a few random views")
    given = parser.parse_args(words)
    gaussians, stream, extractor = load_map(given.map), open_stream(given.stream), ImageNetExtractor()
    start = Provenance(gaussians.checksum, splat_from_map=load_alignment(given.alignment))
    graph = GaussianGraph.of(gaussians)

    def segmenter(names: Sequence[str]) -> Segmenter:
        return Segmenter(gaussians, _field(gaussians, stream, names, extractor, start), extractor, graph)

    names = stream.names()
    _ask_absent(segmenter(names), given.present, given.step)
    found = dict.fromkeys(given.present, 0)
    chance = random.Random(0)
    for _ in range(given.draws):
        some = segmenter(sorted(chance.sample(names, min(len(names), chance.randint(*VIEWS)))))
        for answer in some.ask_many(given.present):
            found[answer.prompt] += answer.state is State.FOUND
    for word, count in found.items():
        print(f"{word}: found in {count} of {given.draws} draws of {VIEWS[0]} to {VIEWS[1]} views")
    return 0


def _field(
    gaussians: GaussianMap, stream: Stream, names: Sequence[str], extractor: ImageNetExtractor, start: Provenance
) -> FeatureField:
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension, provenance=start)
    ingest(stream, names, extractor, projector)
    return projector.field()


def _ask_absent(segmenter: Segmenter, present: Sequence[str], step: int) -> None:
    for answer in segmenter.ask_many(present):
        print(f"{answer.message}; second look {answer.verify_seconds:.2f} s")
    own = {index for word in present for index in segmenter.extractor.words.classes(word)}  # type: ignore[attr-defined]
    absent = [word for index, word in enumerate(FIRST_WORDS) if index not in own][::step]
    found, begin = [], time.perf_counter()
    for first in range(0, len(absent), AT_ONCE):
        answers = segmenter.ask_many(absent[first : first + AT_ONCE])
        found += [answer.prompt for answer in answers if answer.state is State.FOUND]
    seconds = (time.perf_counter() - begin) / len(absent)
    print(f"{len(found)} of {len(absent)} absent words are found ({seconds:.2f} s per word): {', '.join(found)}")
