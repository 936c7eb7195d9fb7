"""``feature-gs``: the package without ROS. 0 done, 2 bad input with one line on stderr, 130 interrupted."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from feature_gs_ros.cli import (
    affordance,
    affordance_library,
    backproject,
    distill,
    edit,
    evaluate,
    evaluate_affordance,
    evaluate_protocols,
    extractors,
    identity,
    info,
    instances,
    query,
    render,
    synth,
    train,
)
from feature_gs_ros.errors import FeatureGsError, OptionError, StoppedError
from feature_gs_ros.memory import keep_freed_memory

Command = Callable[..., Any]
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

COMMANDS: dict[str, Command] = {
    "synth": synth.synth,
    "train": train.train,
    "distill": distill.distill,
    "backproject": backproject.backproject,
    "identity": identity.identity,
    "instances": instances.instances,
    "query": query.query,
    "render": render.render,
    "edit": edit.edit,
    "info": info.info,
    "extractors": extractors.extractors,
}
GROUPS: dict[str, dict[str, Command]] = {
    "evaluate": {
        "segmentation": evaluate.segmentation,
        "affordance": evaluate_affordance.affordance,
        "lerf-mask": evaluate_protocols.lerf_mask,
        "lerf-ovs": evaluate_protocols.lerf_ovs,
        "3d-ovs": evaluate_protocols.three_d_ovs,
        "replica": evaluate_protocols.replica,
    },
    "affordance": {
        "add": affordance_library.add,
        "transfer": affordance.transfer,
        "list": affordance_library.list_sources,
        "remove": affordance_library.remove,
        "merge": affordance_library.merge,
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    try:
        logging.basicConfig(level=_log_level(), format="%(levelname)s %(message)s")
        sys.exit(_run(words))
    except (KeyboardInterrupt, StoppedError):
        print("feature-gs: interrupted", file=sys.stderr)
        sys.exit(130)
    except FeatureGsError as error:
        print(f"feature-gs: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `feature-gs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # names that are too long, folders that may not be looked into: even asking for them fails
        cause = f"can't use '{error.filename}': {error.strerror}" if error.filename else str(error)
        print(f"feature-gs: {cause}", file=sys.stderr)
        sys.exit(2)


def _log_level() -> str:
    level = os.environ.get("FEATURE_GS_LOG", "WARNING").upper()
    if level not in LOG_LEVELS:
        raise OptionError(f"FEATURE_GS_LOG={level} is no level of messages; choose {', '.join(LOG_LEVELS)}")
    return level


def _run(words: list[str]) -> int:
    config = (tyro.conf.FlagCreatePairsOff,)
    group = GROUPS.get(words[0]) if words else None
    if group is not None:
        prog, commands, words = f"feature-gs {words[0]}", group, words[1:]
    else:
        prog, commands = "feature-gs", COMMANDS | {name: _group(name) for name in GROUPS}
    result = tyro.extras.subcommand_cli_from_dict(
        commands, prog=prog, description=__doc__ if group is None else None, args=words, config=config
    )
    return int(result or 0)


def _group(name: str) -> Command:
    """A line of the main help for a group of commands; their own help is one level down."""

    def listed() -> None: ...

    listed.__doc__ = f"{', '.join(GROUPS[name])}: see feature-gs {name} --help"
    return listed
