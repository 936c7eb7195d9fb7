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
from feature_gs_ros.extractors.weights import (
    WeightsFile,
    convert_checkpoint,
    find_weights,
    present_weights,
    weights_folders,
)


def extractors(
    *, download: str | None = None, convert: Path | None = None, out: Path | None = None, json: bool = False
) -> int:
    """List the extractors: purpose, dimension, and what each still needs on this machine.

    Args:
        download: instead, download the weights of this extractor, or the file of this name, to the cache folder and
            verify them.
        convert: instead, extract the weights of this checkpoint, without running any code in it.
        out: the .safetensors file to write them to.
        json: print one JSON object per extractor.
    """
    if convert is not None:
        return _convert(convert, out)
    if download is not None:
        return _fetch(download)
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
        size = f", {words}, {row['dimension']} channels" if "dimension" in row else ""
        say(f"{row['name']:<15}{state:<11}{row['about']}{size}")
        for line in row.get("missing", []) + row.get("for_words", []):
            say(f"{'':<15}{line}")
    return 0


def _row(name: str, needs: Requirements) -> dict[str, Any]:
    absent = [package for module, package in needs.libraries if not installed(module)]
    weights = present_weights(needs.weights)
    missing = [f"missing: pip install {' '.join(absent)}"] if absent else []
    if needs.weights and not weights:
        missing += [f"weights missing: {needs.weights[0]}", f"    {_way(name, needs.weights[0])}"]
        missing += [f"    or one: {file.name} ({file.megabytes:,} MB)" for file in needs.weights[1:]]
    for_words: list[str] = []
    if needs.words_weights and not present_weights(needs.words_weights):
        for_words = [f"to ask in words: {file}; {_way(file.name, file)}" for file in needs.words_weights]
    return {
        "name": name,
        "about": needs.about,
        "dimension": needs.dimension,
        "text": needs.text,
        "ready": not missing,
        "weights": [str(path) for path in weights],
        "missing": missing,
        "for_words": for_words,
    }


def _way(name: str, file: WeightsFile) -> str:
    """The line that brings a file of weights."""
    if file.direct:
        return f"feature-gs extractors --download {name}"
    return f"get it from there by hand, and put it into {weights_folders()[-1]}"


def _fetch(name: str) -> int:
    needs = [found for known in extractor_names() if (found := extractor_requirements(known)) is not None]
    files = {file.name: file for need in needs for file in (*need.weights, *need.words_weights)}
    if name in files:
        wanted = files[name]
    else:
        of_extractor = extractor_requirements(name) if name in extractor_names() else None
        if of_extractor is None or not of_extractor.weights:
            raise ExtractorError(
                f"'{name}' is no extractor with weights and none of their files; choose {', '.join(files)}",
                code="extractor.unknown",
            )
        wanted = of_extractor.weights[0]
    say(f"{wanted.name} is in {find_weights(wanted)} (licence: {wanted.licence})")
    return 0


def _convert(source: Path, target: Path | None) -> int:
    if target is None or target.suffix != ".safetensors":
        raise ExtractorError("--convert FILE needs --out FILE.safetensors", code="extractor.missing")
    check_outputs({"--out": target}, [source])
    say(f"wrote {convert_checkpoint(source, target)} tensors to {target}")
    return 0
