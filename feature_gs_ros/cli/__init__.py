"""``feature-gs``: the package without ROS. 0 done, 2 bad input with one line on stderr, 130 interrupted."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from feature_gs_ros.cli import backproject, evaluate, info, query, render, synth
from feature_gs_ros.errors import FeatureGsError

COMMANDS: dict[str, Callable[..., Any]] = {
    "synth": synth.synth,
    "backproject": backproject.backproject,
    "query": query.query,
    "render": render.render,
    "info": info.info,
}
PROTOCOLS: dict[str, Callable[..., Any]] = {"segmentation": evaluate.segmentation}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    logging.basicConfig(level=os.environ.get("FEATURE_GS_LOG", "WARNING"), format="%(levelname)s %(message)s")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_run(words))
    except FeatureGsError as error:
        print(f"feature-gs: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("feature-gs: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `feature-gs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run(words: list[str]) -> int:
    config = (tyro.conf.FlagCreatePairsOff,)
    if words[:1] == ["evaluate"]:
        # One protocol alone would not become a subcommand; help and errors are the same for one and for many.
        if words[1:2] and words[1] in PROTOCOLS:
            prog = f"feature-gs evaluate {words[1]}"
            return int(tyro.cli(PROTOCOLS[words[1]], prog=prog, args=words[2:], config=config) or 0)
        known = ", ".join(PROTOCOLS)
        print(f"usage: feature-gs evaluate PROTOCOL …, with PROTOCOL one of: {known}", file=sys.stderr)
        return 0 if words[1:2] in (["-h"], ["--help"]) else 2
    commands = {**COMMANDS, "evaluate": _evaluate}
    return int(
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="feature-gs", description=__doc__, args=words, config=config
        )
        or 0
    )


def _evaluate() -> None:
    """Compare masks or poses with ground truth: feature-gs evaluate PROTOCOL …"""
