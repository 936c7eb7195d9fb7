"""LERF-Mask (Gaussian Grouping): ``test_mask/<novel view>/<prompt>.png``, binary masks by prompt in 2 to 4 novel views.

IoU and boundary IoU are means over a prompt's images, then over the prompts. 3D-OVS and LERF-OVS differ in layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.evaluation.protocols.prediction import Mask, known_prompts, predict, read_mask, scene_stream
from feature_gs_ros.evaluation.protocols.scoring import PromptScores, ProtocolResult, summarised
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.query.masks_3d import Segmenter


def evaluate_lerf_mask(
    segmenter: Segmenter,
    folder: str | Path,
    *,
    stream: Stream | None = None,
    backend: rasterizer.BackendChoice = "auto",
) -> ProtocolResult:
    """Score one scene of LERF-Mask.

    Args:
        folder: the scene's, e.g. ``lerf_mask/figurines``, with ``test_mask`` and a COLMAP model.
        stream: where the test views' cameras are; the folder's own by default.

    Raises:
        EvaluationError: no masks, or none that can be evaluated.
    """
    folder = Path(folder)
    stream = stream or scene_stream(folder)
    truth, skipped = read_prompt_folders(folder / "test_mask")
    frames = frames_of_folders(stream, sorted(truth), skipped)
    scores, views = score_prompt_masks(segmenter, stream, truth, frames, skipped, backend=backend)
    return summarised("LERF-Mask", folder.name, scores, views, skipped, prompts_of(truth))


def read_prompt_folders(folder: Path) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    """Mask files by view folder and prompt; and what is not such a folder, with the reason.

    Raises:
        EvaluationError: the folder is missing or holds no masks.
    """
    if not folder.is_dir():
        raise EvaluationError(
            f"there is no '{folder}'; expected <view>/<prompt>.png in it", code="evaluation.unreadable"
        )
    found: dict[str, dict[str, Path]] = {}
    skipped: dict[str, str] = {}
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            continue
        masks = {path.stem: path for path in sorted(entry.iterdir()) if path.suffix.lower() in (".png", ".jpg")}
        if masks:
            found[entry.name] = masks
        else:
            skipped[entry.name] = "holds no masks"
    if not found:
        raise EvaluationError(f"'{folder}' holds no <view>/<prompt>.png", code="evaluation.empty")
    return found, skipped


def frames_of_folders(stream: Stream, folders: list[str], skipped: dict[str, str]) -> dict[str, str]:
    """Frame of each folder: of its name, or, as a number that no frame is called, the n-th test view.

    Gaussian Grouping numbers the test views from 0: the frames that ``images_train`` lacks, which its releases name
    ``test_<n>``; in a stream without such names every 8th frame from the first is one, as in 3DGS.
    """
    names, tests = stream.names(), lerf_mask_tests(stream)
    frames = {}
    for folder in folders:
        if folder in names:
            frames[folder] = folder
        elif folder.isdigit() and int(folder) < len(tests):
            frames[folder] = tests[int(folder)]
        else:
            skipped[folder] = f"no frame of '{stream.source}' is meant by it"
    return frames


def lerf_mask_tests(stream: Stream) -> list[str]:
    """The stream's test views, in order."""
    names = sorted(stream.names())
    return [name for name in names if name.startswith("test")] or names[::8]


def lerf_mask_views(folder: str | Path, stream: Stream) -> list[str]:
    """Frames that a field to be scored may not have seen: the test views, and whatever else has masks."""
    found, _ = read_prompt_folders(Path(folder) / "test_mask")
    return sorted({*lerf_mask_tests(stream), *frames_of_folders(stream, sorted(found), {}).values()})


def prompts_of(truth: Mapping[str, Iterable[str]]) -> set[str]:
    """All prompts that any view has a mask of."""
    return {prompt for masks in truth.values() for prompt in masks}


def score_prompt_masks(
    segmenter: Segmenter,
    stream: Stream,
    truth: Mapping[str, Mapping[str, Path | Mask]],
    frames: Mapping[str, str],
    skipped: dict[str, str],
    *,
    competing: Sequence[str] = (),
    backend: rasterizer.BackendChoice = "auto",
) -> tuple[PromptScores, int]:
    """Score every view's prompts; returns the scores and the number of views.

    Args:
        truth: masks, or their files, by view and prompt.
        frames: name of each view's frame; views without one are left out.
        competing: classes among which each pixel goes to the likeliest; without them prompts may overlap.
    """
    scores, views = PromptScores(), 0
    by_frame = {frame: view for view, frame in frames.items()}
    for frame in stream.frames(list(by_frame)):
        masks = truth[by_frame[frame.name]]
        asked = known_prompts(segmenter, list(competing) or list(masks), skipped)
        prompts = [prompt for prompt in asked if prompt in masks]
        if not prompts:
            continue
        prediction = predict(segmenter, frame, asked, backend)
        used = False
        for prompt in prompts:
            try:
                given = masks[prompt]
                true = given if isinstance(given, np.ndarray) else read_mask(given)
                choose = prediction.one if competing else prediction.alone
                scores.add(prompt, choose(prompt, (true.shape[0], true.shape[1])), true)
                used = True
            except EvaluationError as error:
                skipped[f"{frame.name}: {prompt}"] = str(error)
        views += used
    return scores, views
