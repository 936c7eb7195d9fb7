"""``feature-gs train``: a splat map from a recorded stream of posed images."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from feature_gs_ros.backprojection.ingest import choose_frames
from feature_gs_ros.cli.checks import check_kind, check_number, check_outputs, check_seed
from feature_gs_ros.cli.common import alignment_or_identity, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.cli.stream_check import checked
from feature_gs_ros.core.errors import MapError, TrainingError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.gaussian_ply import save_ply
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.colmap import find_model
from feature_gs_ros.io.streams.colmap_model import read_points
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.rasterizer import Backend, training_backend
from feature_gs_ros.training.checkpoint import resume_training, save_training
from feature_gs_ros.training.densification import DensityOptions
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.session import SessionOptions, set_aside, train_map
from feature_gs_ros.training.start import StartOptions, nearest_allowed, start_from_points
from feature_gs_ros.training.trainer import Trainer, TrainingMetrics, TrainingOptions, measure
from feature_gs_ros.training.views import TrainingView, load_views

STEPS_A_VIEW, MIN_STEPS = 60, 2400  # where tens of views stop to gain on views left out


def train(
    stream: Path,
    /,
    *,
    out: Path,
    init: Path | None = None,
    alignment: Path | None = None,
    hold_out: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    skip: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    every: int = 1,
    size: int = 640,
    iterations: int | None = None,
    sh_degree: int = TrainingOptions.sh_degree,
    stereo: int = StartOptions.stereo,
    densify: bool = False,
    gaussians: int = DensityOptions.most,
    reset_opacity: tuple[float, ...] = DensityOptions.reset,
    pictures: Path | None = None,
    picture_every: int = SessionOptions.picture_every,
    trust_poses: bool = False,
    resume: bool = False,
    seed: int = 0,
    backend: str = "auto",
    rasterizer: Literal["own", "gsplat"] = "own",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Train a 3D Gaussian map from posed images, and save it as a 3DGS PLY.

    Args:
        stream: COLMAP folder (its points are the start), or any stream together with --init.
        out: the map to write, .ply; its checkpoint lies beside it until training is finished.
        init: pretrained map to start from.
        alignment: splat_from_map file, if the stream's poses are not in the frame of --init.
        hold_out: name of a frame to leave out and to measure on; may be repeated.
        skip: name of a frame to leave out; may be repeated.
        every: take every n-th frame.
        size: pixels of the images' longer side.
        iterations: steps, each over one image; 60 per image by default, and at least 2400.
        sh_degree: of the spherical harmonics, 0 to 3.
        stereo: starting points that stereo between the images may add; 0 turns it off.
        densify: clone and split Gaussians with large image-space gradients, even if stereo made the start dense:
            sharper in views near the training ones, worse in others unless there are many images.
        gaussians: limit for --densify; the start's size follows from --stereo and the points.
        reset_opacity: when to lower all opacities, as fractions of the run between 0 and 1; needed ones recover.
        pictures: folder for renderings of the held-out frames (else of the first frame) during training.
        picture_every: iterations between two pictures.
        trust_poses: go on even if the images show that the poses are wrong (by --init, or by each other).
        resume: continue from the checkpoint beside --out; without it an earlier run's checkpoint is renamed.
        seed: random seed of the images' order.
        backend: what renders: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        rasterizer: own, or gsplat (installed, on a card) for each step's image and gradients.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    check_number("--sh-degree", sh_degree, 0, 3)
    check_number("--iterations", iterations, 1)
    check_number("--size", size, 16)
    check_number("--stereo", stereo, 0)
    check_number("--gaussians", gaussians, 1)
    check_number("--picture-every", picture_every, 1)
    check_seed(seed)
    renders = training_backend(backend, rasterizer)
    if alignment is not None and init is None:
        raise TrainingError(
            "--alignment leads to the frame of --init; without one the map is in the stream's own",
            code="training.conflict",
        )
    if not all(0 < fraction < 1 for fraction in reset_opacity):
        raise TrainingError(
            f"--reset-opacity {' '.join(map(str, reset_opacity))}: fractions of the run, between 0 and 1",
            code="training.value",
        )
    check_outputs({"--out": out}, [])
    checkpoint = out.with_name(out.name + ".training")
    files, folders = {"--out": out, "the checkpoint": checkpoint}, {"--pictures": pictures}
    check_outputs(files, [stream, init, alignment], folders=folders)
    check_kind("--out", out, ".ply")
    source = open_stream(stream, bag=bag)
    names = choose_frames(source, every, (*hold_out, *skip))
    frame = alignment_or_identity(alignment)
    findings = checked(source, names, None if init is None else load_map(init), frame, trust_poses)
    views, held = load_views(source, names, frame, size), load_views(source, hold_out, frame, size)
    iterations = max(MIN_STEPS, STEPS_A_VIEW * len(views)) if iterations is None else iterations
    density = DensityOptions(grow=densify or (init is None and stereo == 0), most=gaussians, reset=reset_opacity)
    options = TrainingOptions(iterations=iterations, sh_degree=sh_degree, seed=seed, density=density)
    torch.set_num_threads(1)  # OpenMP's threads spin for one another: beside other work a step takes ten times as long
    start = time.perf_counter()
    trainer = _trainer(stream, init, views, options, StartOptions(stereo=stereo), renders)
    session = SessionOptions(checkpoint, pictures=pictures, picture_every=picture_every)
    with locked(out):  # the checkpoint is read, set aside and written
        if resume and session.checkpoint.is_file():
            resume_training(trainer, session.checkpoint)
            note(f"resuming after {trainer.iteration} of {iterations} iterations")
        elif aside := set_aside(session.checkpoint):
            note(f"an earlier run's checkpoint is now '{aside}'; to go on with it, rename it back and add --resume")
        note(f"{len(views)} images, {len(trainer.parameters)} Gaussians to start with")
        with ProgressBar("training", "step", quiet=json).running() as bar:

            def progress(metrics: TrainingMetrics) -> bool:
                shown = f"PSNR {metrics.psnr:.2f} dB, {metrics.count} Gaussians"
                return bar(metrics.iteration, metrics.iterations, shown)

            trained, finished = train_map(trainer, held or views[:1], session, progress, note)
        _save(trained, out, trainer, session.checkpoint, finished)
    _tell(trained, held, time.perf_counter() - start, finished, trainer.iteration, out, json, findings)
    return 0 if finished else 130


def _trainer(
    stream: Path,
    init: Path | None,
    views: list[TrainingView],
    options: TrainingOptions,
    start: StartOptions,
    backend: Backend,
) -> Trainer:
    if init is not None:
        pretrained = load_map(init)
        near = nearest_allowed(pretrained.means.double().numpy(), views)
        return Trainer(SplatParameters.of_map(pretrained, options.sh_degree), views, options, near, backend=backend)
    model = find_model(stream)
    if model is None:
        raise TrainingError(
            f"'{stream}' is not a COLMAP folder, so it has no points to start from; give a map with --init",
            code="training.format",
        )
    points, colors = read_points(model)
    parameters = start_from_points(points, colors, views, options.sh_degree, start)
    return Trainer(parameters, views, options, nearest_allowed(points, views), backend=backend)


def _save(trained: GaussianMap, out: Path, trainer: Trainer, checkpoint: Path, finished: bool) -> None:
    """Write the map; only then may a finished run's checkpoint go."""
    try:
        save_ply(trained, out)
    except MapError as error:
        with contextlib.suppress(TrainingError):
            save_training(trainer, checkpoint)
        if not checkpoint.is_file():
            raise
        raise TrainingError(
            f"{error}; the run is kept in '{checkpoint}': make room, then add --resume", code="training.unwritable"
        ) from error
    if finished:
        checkpoint.unlink(missing_ok=True)


def _tell(
    trained: GaussianMap,
    held: list[TrainingView],
    seconds: float,
    finished: bool,
    iterations: int,
    out: Path,
    json: bool,
    findings: tuple[Finding, ...],
) -> None:
    quality = measure(SplatParameters.of_map(trained, trained.sh_degree), held)
    mean = float(np.mean(list(quality.values()))) if quality else None
    if json:
        print_json(
            {
                "map": str(out),
                "gaussians": len(trained),
                "iterations": iterations,
                "finished": finished,
                "seconds": round(seconds, 1),
                "psnr": {name: round(value, 2) for name, value in quality.items()},
                "mean_psnr": None if mean is None else round(mean, 2),
                "findings": [finding.as_json() for finding in findings],
            }
        )
        return
    for name, value in quality.items():
        say(f"held out {name}: PSNR {value:.2f} dB")
    if mean is not None:
        say(f"mean of the held-out frames: {mean:.2f} dB")
    ending = "" if finished else " (stopped early; go on with --resume)"
    say(f"wrote {out}: {len(trained)} Gaussians after {iterations} iterations, {seconds:.0f} s{ending}")
