"""``feature-gs extractors``: the extractors, and what is installed and missing of each."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from feature_gs_ros.cli.checks import check_outputs
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.progress import say
from feature_gs_ros.extractors import ENTRY_POINT_GROUP, extractor_names, extractor_requirements
from feature_gs_ros.extractors.base import Requirements
from feature_gs_ros.extractors.libraries import installed
from feature_gs_ros.extractors.weights import convert_checkpoint, present_weights


def extractors(*, convert: Path | None = None, out: Path | None = None, json: bool = False) -> int:
    """List the extractors: what they are for, their dimension, and what is missing before they work here.

    Args:
        convert: instead, take the weights out of this checkpoint without running what else it holds.
        out: the .safetensors file to write them to.
        json: print one JSON object an extractor.
    """
    if convert is not None:
        return _convert(convert, out)
    third_party = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    rows: list[dict[str, Any]] = []
    for name in extractor_names():
        needs = extractor_requirements(name)
        if needs is None:
            rows.append({"name": name, "about": f"third-party, {third_party.get(name, '')}", "ready": None})
        else:
            rows.append(_row(name, needs))
    if json:
        print_json({"extractors": rows})
        return 0
    for row in rows:
        state = {True: "ready", False: "not ready", None: "unknown"}[row["ready"]]
        words = "words" if row.get("text") else "no words"
        size = f", {words}, {row['dimension']} numbers" if "dimension" in row else ""
        say(f"{row['name']:<15}{state:<11}{row['about']}{size}")
        for line in row.get("missing", []):
            say(f"{'':<15}{line}")
    return 0


def _row(name: str, needs: Requirements) -> dict[str, Any]:
    absent = [package for module, package in needs.libraries if not installed(module)]
    weights = present_weights(needs.weights)
    missing = [f"missing: pip install {' '.join(absent)}"] if absent else []
    if needs.weights and not weights:
        how = "downloaded on first use" if needs.weights[0].direct else "to be downloaded by hand"
        missing += [f"weights missing, {how}: {needs.weights[0]}"]
        missing += [f"           or one: {file.name} ({file.megabytes:,} MB)" for file in needs.weights[1:]]
    return {
        "name": name,
        "about": needs.about,
        "dimension": needs.dimension,
        "text": needs.text,
        "ready": not missing,
        "weights": [str(path) for path in weights],
        "missing": missing,
    }


def _convert(source: Path, target: Path | None) -> int:
    if target is None or target.suffix != ".safetensors":
        raise ExtractorError("--convert FILE needs --out FILE.safetensors", code="extractor.missing")
    check_outputs({"--out": target}, [source])
    say(f"wrote {convert_checkpoint(source, target)} tensors to {target}")
    return 0
