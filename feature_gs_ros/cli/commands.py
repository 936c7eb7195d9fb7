"""The commands of ``feature-gs`` by name, and how one is run. Importing them takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tyro

import feature_gs_ros.cli
from feature_gs_ros.cli import (
    affordance,
    affordance_library,
    align,
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

Command = Callable[..., Any]

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
    "align": {
        "poses": align.poses,
        "hand-eye": align.hand_eye,
        "images": align.images,
        "points": align.points,
        "markers": align.markers,
        "plane": align.plane,
    },
    "affordance": {
        "add": affordance_library.add,
        "transfer": affordance.transfer,
        "list": affordance_library.list_sources,
        "remove": affordance_library.remove,
        "merge": affordance_library.merge,
    },
}


def run(words: list[str]) -> int:
    """Parse a command line and run its command; the exit code."""
    config = (tyro.conf.FlagCreatePairsOff,)
    group = GROUPS.get(words[0]) if words else None
    if group is not None:
        prog, commands, words = f"feature-gs {words[0]}", group, words[1:]
    else:
        prog, commands = "feature-gs", COMMANDS | {name: _group(name) for name in GROUPS}
    result = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog=prog,
        description=feature_gs_ros.cli.__doc__ if group is None else None,
        args=words,
        config=config,
    )
    return int(result or 0)


def _group(name: str) -> Command:
    """A line of the main help for a group of commands; their own help is one level down."""

    def listed() -> None: ...

    listed.__doc__ = f"{', '.join(GROUPS[name])}: see feature-gs {name} --help"
    return listed
