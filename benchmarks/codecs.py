"""Compressed fields: bytes per Gaussian, how far scores keep their order, and the time of a question.

``python -m benchmarks codecs FIELD… [--words WORD…] [--bytes K…]``: a field of an extractor that knows words is asked
the words given, any other the features of 20 of its Gaussians. The order is held against the full field's (Spearman's
rank correlation) over the Gaussians that matter: similarities above the extractor's threshold, and the highest 5%.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from feature_gs_ros.backprojection.compression import compress_field
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.opening import open_segmenter

TARGET = 0.98  # of the rank correlation, at 64 bytes
EXAMPLES = 20
TOP = 0.05
RUNS = 3


def command(arguments: Sequence[str]) -> int:
    """Print a table per field."""
    parser = ArgumentParser(prog="python -m benchmarks codecs", description=__doc__)
    parser.add_argument("fields", nargs="+", type=Path)
    parser.add_argument("--words", nargs="+", default=["coffee mug", "water bottle", "screwdriver"])
    parser.add_argument("--bytes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--option", action="append", default=[], help="of the extractor, KEY=VALUE")
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args(arguments)
    for path in given.fields:
        full = open_segmenter(path, None, given.weights, given.option)
        name, features = full.field.extractor.name, full.field.features
        print(f"{path}: {name}, {len(features)} Gaussians x {features.shape[1]} channels")
        asked = _Questions(full, given.words)
        expected, seconds = asked.similarities(full)
        print(f"  {features.shape[1] * features.element_size():>5} bytes: a question {1e3 * seconds:.0f} ms")
        for channels in given.bytes:
            if channels > full.field.dimension:
                continue
            small = compress_field(full.field, channels)
            segmenter = Segmenter(full.gaussians, small.field, full.extractor, full.graph if asked.words else None)
            found, took = asked.similarities(segmenter)
            above, top = _agreement(expected, found, asked.threshold, full.field.seen)
            print(
                f"  {channels:>5} bytes: a question {1e3 * took:.0f} ms ({took / seconds:.2f}x), {small.kept:.2%} of "
                f"the variance; rank correlation over the threshold {_summary(above)}, of the top 5% {_summary(top)} "
                f"(target at 64 bytes {TARGET})"
            )
    return 0


class _Questions:
    """The same questions to any segmenter of a field's map."""

    def __init__(self, full: Segmenter, words: Sequence[str]) -> None:
        self.words = list(words) if full.extractor.known_words() else []
        rows = full.field.seen.nonzero()[:, 0]
        chosen = rows[torch.randint(len(rows), (EXAMPLES,), generator=torch.Generator().manual_seed(0))]
        self.examples = full.field.decoded(chosen)
        rule = full.extractor.text_rule if self.words else full.extractor.example_rule
        self.threshold = rule.threshold

    def similarities(self, segmenter: Segmenter) -> tuple[Tensor, float]:
        """[N, Q] and the seconds of one question, prepared."""
        if self.words:
            segmenter.similarities_of_text(self.words[:1])
            took = [_seconds(lambda: segmenter.similarities_of_text(self.words[:1])) for _ in range(RUNS)]
            return segmenter.similarities_of_text(self.words), statistics.median(took)
        columns = [segmenter.score_examples(one[None]).similarities[:, 0] for one in self.examples]
        took = [_seconds(lambda: segmenter.score_examples(self.examples[:1])) for _ in range(RUNS)]
        return torch.stack(columns, dim=1), statistics.median(took)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _agreement(expected: Tensor, found: Tensor, threshold: float, seen: Tensor) -> tuple[list[float], list[float]]:
    """Rank correlations of each column over the threshold, and of its highest values."""
    above, top = [], []
    for column in range(expected.shape[1]):
        own, other = expected[seen, column], found[seen, column]
        passing = (own > threshold).nonzero()[:, 0]
        highest = own.topk(max(2, int(TOP * len(own)))).indices
        if len(passing) > 2:
            above.append(_spearman(own[passing], other[passing]))
        top.append(_spearman(own[highest], other[highest]))
    return above, top


def _spearman(one: Tensor, other: Tensor) -> float:
    ranks = [values.argsort().argsort().double() for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    return float(centred[0] @ centred[1] / (centred[0].norm() * centred[1].norm()))


def _summary(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} (least {min(values):.3f})" if values else "none"
