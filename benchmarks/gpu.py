"""``python -m benchmarks gpu``: a card, its parity with the CPU first, then its times; JSON to benchmarks/results/.

``--resources``: what the compiler says of every kernel, for cards that are not here. ``--predict``: bounds on times by
counts, for cards that are not here. ``--rehearse``: the whole run on Warp's CPU device, small: that it runs, no times.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.scenes import POSE, room
from feature_gs_ros import rasterizer
from feature_gs_ros.affordance.nearest import nearest_patches
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.core.feature_grid import FeatureGrid, upsample
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.numerics.streams import upload
from feature_gs_ros.rasterizer import get_backend
from feature_gs_ros.rasterizer.cuda.backend import CudaBackend
from feature_gs_ros.rasterizer.gsplat_training import GsplatBackend

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parent.parent / "docs" / "gpu.md"
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)
BATCH = 8
BUDGET = 420  # seconds after which no further measurement begins

Results = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What is measured: a million Gaussians at 720p, or something to rehearse on."""

    gaussians: int
    width: int
    height: int
    channels: tuple[int, ...]
    neighbours: tuple[int, int]  # of so many, among so many
    repeats: int

    @property
    def camera(self) -> Camera:
        return Camera(self.width, self.height, 0.8 * self.width, 0.8 * self.width, self.width / 2, self.height / 2)

    def grid(self, cell: int, channels: int, device: torch.device) -> FeatureGrid:
        """Random features on square cells of ``cell`` pixels, on the device, as an extractor leaves them."""
        rows, columns = -(-self.height // cell), -(-self.width // cell)
        values = torch.randn(rows, columns, channels, device=device)
        return FeatureGrid(values, right=columns * cell / self.width, bottom=rows * cell / self.height)


FULL = Size(1_000_000, 1280, 720, (512, 1024), (1_000_000, 10_000), 20)
SMALL = Size(3_000, 160, 96, (8,), (500, 200), 1)


def command(words: list[str]) -> int:
    """Run what the words say; the exit code."""
    unknown = set(words) - {"--resources", "--predict", "--rehearse"}
    if unknown:
        print(f"unknown: {' '.join(sorted(unknown))}; choose --resources, --predict or --rehearse", file=sys.stderr)
        return 2
    try:
        if "--resources" in words:
            resources()
        elif "--predict" in words:
            predictions()
        else:
            rehearsing = "--rehearse" in words
            measure("warp-cpu" if rehearsing else "cuda", SMALL if rehearsing else FULL)
    except BackendError as error:
        print(f"no measurement: {error}", file=sys.stderr)
        return 2
    return 0


def resources() -> None:
    """Registers, spills and occupancy of every kernel: the table of docs/gpu.md, which is written anew."""
    from feature_gs_ros.rasterizer.cuda.resources import find_ptxas, kernel_resources

    ptxas = find_ptxas()
    if ptxas is None:
        raise BackendError("there is no ptxas: pip install nvidia-cuda-nvcc")
    table = {arch: {kernel.kernel: kernel for kernel in kernel_resources(arch, ptxas)} for arch in ARCHITECTURES}
    head = ["| kernel | " + " | ".join(f"sm_{arch}" for arch in ARCHITECTURES) + " |", "|---|" + "---|" * len(table)]
    rows = []
    for name in table[ARCHITECTURES[0]]:
        cells = (table[arch][name] for arch in ARCHITECTURES)
        rows.append(f"| `{name}` | " + " | ".join(f"{cell.registers} · {cell.occupancy:.0%}" for cell in cells) + " |")
    print("\n".join(head + rows))
    _replace_table(head + rows)
    spills = sum(kernel.spills + kernel.stack for kernels in table.values() for kernel in kernels.values())
    print(f"\nspilled bytes, all together: {spills}")


def _replace_table(lines: list[str]) -> None:
    """Put a table into the document where one with the same first column stands."""
    text = DOCUMENT.read_text().splitlines()
    first = next(number for number, line in enumerate(text) if line.startswith(lines[0].split(" | ")[0]))
    end = next(number for number in range(first, len(text)) if not text[number].startswith("|"))
    DOCUMENT.write_text("\n".join([*text[:first], *lines, *text[end:]]) + "\n")


def predictions() -> None:
    """Bounds for the sizes of the targets, counted on the CPU, and the targets beside those of an H200."""
    from benchmarks.gpu_model import CARDS, Counts, count, predict
    from feature_gs_ros.rasterizer.cuda.view import CudaView

    backend, gaussians = get_backend("warp-cpu"), room(FULL.gaussians)
    print(
        f"{FULL.gaussians} Gaussians, {FULL.width}x{FULL.height}, a batch of {BATCH} views; at least, in ms per view:"
    )
    counted: dict[int, Counts] = {}
    for cell in (16, 14, 2):
        view = rasterizer.view(gaussians, FULL.camera, POSE, backend)
        assert isinstance(view, CudaView)
        counted[cell] = counts = count(view, gaussians, FULL.grid(cell, 1, backend.device))
        print(f"\n{cell}-px cells: {counts}")
        for channels in FULL.channels:
            for card in CARDS:
                times = predict(card, counts, channels, cell >= 9, BATCH)
                ours = sum(times[name] for name in ("project", "pairs", "weights", "product"))
                parts = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in times.items())
                ratio = times["paper's way"] / ours
                print(f"  {card.name}, {channels} channels: {1e3 * ours:.2f} ({parts}); the paper's way {ratio:.0f}x")
    _other_predictions(counted)


def _other_predictions(counted: dict[int, Any]) -> None:
    """Queries, a training step and an extractor on every card; then the targets, met or not by an H200's bounds."""
    from benchmarks.gpu_model import CARDS, predict, predict_network, predict_queries, predict_training

    print("\ntext query of 1M x 512 [ms]; neighbours of 1M among 10k x 384 [s]; training step, ours / gsplat's [ms];")
    print("DINOv2 ViT-S at 640x480 [ms]")
    for card in CARDS:
        queries = predict_queries(card, FULL.gaussians, 512, (*FULL.neighbours, 384))
        ours, theirs = predict_training(card, counted[16])
        text, near = 1e3 * queries["text query"], queries["nearest neighbours"]
        network = 1e3 * predict_network(card)
        print(f"  {card.name}: {text:.2f}; {near:.3f}; {1e3 * ours:.2f} / {1e3 * theirs:.2f}; {network:.1f}")
    card = CARDS[-1]
    wanted: list[tuple[str, float, str, float]] = []
    for cell, counts in counted.items():
        for channels in FULL.channels:
            times = predict(card, counts, channels, cell >= 9, BATCH)
            total = sum(times[name] for name in ("project", "pairs", "weights", "product"))
            times_paper = times["paper's way"] / total
            wanted.append(
                (f"{cell} px, {channels} channels: x the paper's way", times_paper, ">=", 50 if cell > 2 else 10)
            )
            if cell > 2:
                moved = 8 * channels * min(counts.gaussians, 1.3 * counts.visible)
                fraction = moved / card.bandwidth / predict(card, counts, channels, True, 1)["product"]
                wanted.append((f"{cell} px, {channels} channels: product of one view / bandwidth", fraction, ">=", 0.5))
    queries = predict_queries(card, FULL.gaussians, 512, (*FULL.neighbours, 384))
    ours, theirs = predict_training(card, counted[16])
    view = sum(
        predict(card, counted[14], 512, True, BATCH)[name] for name in ("project", "pairs", "weights", "product")
    )
    wanted += [
        ("text query of 1M x 512 [ms]", 1e3 * queries["text query"], "<=", 1),
        ("neighbours of 1M among 10k x 384 [s]", queries["nearest neighbours"], "<=", 0.2),
        (
            "views per second, network and back-projection, without decoding",
            1 / (view + predict_network(card)),
            ">=",
            30,
        ),
        ("training step / gsplat's", ours / theirs, "<=", 1.2),
    ]
    print(f"\ntargets for an {card.name}, by its bounds, which a kernel misses by 1.5 to 3 times:")
    for what, value, sign, limit in wanted:
        met = value >= limit if sign == ">=" else value <= limit
        print(f"  {what}: {value:.3g} ({sign} {limit:g}: {'within' if met else 'NOT within'} the model)")


def measure(name: str, size: Size) -> Results:
    """Parity, then times; prints and writes them."""
    backend = get_backend(name)
    assert isinstance(backend, CudaBackend)
    began, results = time.monotonic(), _machine(backend.device)
    print(json.dumps(results))
    steps: tuple[Callable[[CudaBackend, Size, Results], None], ...] = (
        parity, backprojection, rendering, gradients, queries, throughput, paper,
    )  # fmt: skip
    for step in steps:
        if backend.device.type == "cuda" and time.monotonic() - began > BUDGET:
            print(f"{step.__name__}: left out, {BUDGET} s are over")
            continue
        known = set(results)
        step(backend, size, results)
        for key in (key for key in results if key not in known):
            print(f"  {key}: {results[key]}")
    results["seconds"] = time.monotonic() - began
    if backend.device.type == "cuda":
        results["peak_bytes"] = torch.cuda.max_memory_allocated(backend.device)
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"gpu-{results['card'].replace(' ', '-')}-{time.strftime('%Y-%m-%d')}.json"
        target.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written: {target}")
    return results


def _machine(device: torch.device) -> Results:
    from feature_gs_ros.rasterizer.cuda.runtime import VERSION

    if device.type == "cpu":
        return {"card": "Warp's CPU device", "warp": VERSION, "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(device)
    source, target = (torch.empty(1 << 28, device=device) for _ in range(2))
    seconds = timed(lambda: target.copy_(source), device, 20)
    return {
        "card": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "copy_bytes_per_second": 2 * source.nbytes / seconds,
        "warp": VERSION,
        "torch": torch.__version__,
    }


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call after two to warm up, by the card's own clock."""
    for _ in range(2):
        work()
    times = []
    for _ in range(repeats):
        if device.type == "cpu":
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
            continue
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return statistics.median(times)


def parity(backend: CudaBackend, size: Size, results: Results) -> None:
    """Image, depth, numerator, weight and gradients against the CPU; a card that differs is not worth timing."""
    gaussians = room(min(100_000, size.gaussians))
    ours, theirs = (rasterizer.view(gaussians, size.camera, POSE, choice) for choice in (backend, "cpu"))
    pairs = {
        "color": (ours.render_color(), theirs.render_color()),
        "depth": (ours.render_depth(), theirs.render_depth()),
    }
    for cell in (16, 2, 1):
        grid = size.grid(cell, 16, torch.device("cpu"))
        both = zip(ours.backproject(grid), theirs.backproject(grid), strict=True)
        pairs |= {f"{kind} of {cell}-px cells": next(both) for kind in ("numerator", "weight")}
    one, other = (_gradients(choice, gaussians, size.camera, 5)() for choice in (backend, get_backend("cpu")))
    pairs |= {f"gradient of {name}": (one[name], other[name]) for name in one}
    for name, (found, expected) in pairs.items():
        results[f"parity: {name}"] = difference = float((found.cpu() - expected).norm() / expected.norm())
        if not difference < (5e-3 if name.startswith("gradient") else 1e-3):
            raise BackendError(f"{backend.name} differs from the CPU: {name} by {difference:.2g}; nothing was timed")


def backprojection(backend: CudaBackend, size: Size, results: Results) -> None:
    """A view of a batch, cells of all sizes, and its parts; the product's bytes over the bandwidth of a copy."""
    gaussians, device = room(size.gaussians), backend.device
    views = [rasterizer.view(gaussians, size.camera, POSE, backend) for _ in range(BATCH)]
    few = max(1, size.repeats // 4)
    results["view_seconds"] = timed(lambda: rasterizer.view(gaussians, size.camera, POSE, backend), device, few)
    for channels in size.channels:
        sums = backend.accumulator(gaussians, channels)
        for cell, count in ((16, BATCH), (14, BATCH), (2, 1)):
            batch = (views[:count], [size.grid(cell, channels, device)] * count, [None] * count)
            key = f"backproject {cell}px {channels}"
            results[f"{key} seconds_per_view"] = timed(partial(sums.add, *batch), device, few) / count
            results[f"{key} product_seconds"] = seconds = _product_seconds(views[0], batch[1][0], sums, few)
            results[f"{key} product_bytes_per_second"] = rate = 2 * 4 * channels * len(views[0].visible) / seconds
            if "copy_bytes_per_second" in results:
                results[f"{key} product_fraction_of_bandwidth"] = rate / results["copy_bytes_per_second"]
    image = np.random.default_rng(0).integers(0, 200, (size.height, size.width))
    results["labels_seconds"] = timed(lambda: views[0].backproject_labels(image, 200), device, few)


def _product_seconds(view: Any, grid: FeatureGrid, sums: Any, repeats: int) -> float:
    """The product alone: with the weights less the weights."""
    from feature_gs_ros.rasterizer.cuda.accumulate import blocks_of, cells_of
    from feature_gs_ros.rasterizer.cuda.product import add_batches, plan_batch
    from feature_gs_ros.rasterizer.cuda.weights import sum_weights

    device, values = view.device, cells_of(grid, view.device)
    parts = blocks_of(view, grid, None)
    batches = [plan_batch([part], [view.projection], [values]) for part in parts]
    weights = torch.empty(max(part.size for part in parts), device=device)

    def sum_all() -> None:
        for part in parts:
            sum_weights(part, weights[: part.size].zero_())

    whole = timed(lambda: add_batches(batches, sums.sums, 1), device, repeats)
    return max(1e-9, whole - timed(sum_all, device, repeats))


def rendering(backend: CudaBackend, size: Size, results: Results) -> None:
    """Colour, depth, and images of many channels that stay on the card."""
    gaussians, device = room(size.gaussians), backend.device
    view = rasterizer.view(gaussians, size.camera, POSE, backend)
    results["render_color_seconds"] = timed(view.render_color, device, size.repeats)
    results["render_depth_seconds"] = timed(view.render_depth, device, size.repeats)
    values = torch.randn(len(view.visible), 64, device=device)
    results["render_64_seconds"] = timed(lambda: view.render_visible(values), device, max(1, size.repeats // 4))


def gradients(backend: CudaBackend, size: Size, results: Results) -> None:
    """A training step: forward and backward, colour alone and with 32 more channels."""
    gaussians = room(min(200_000, size.gaussians))
    for channels in (0, 32):
        step = _gradients(backend, gaussians, size.camera, channels)
        results[f"gradients_{channels}_seconds"] = timed(step, backend.device, max(1, size.repeats // 4))


def _gradients(backend: Any, gaussians: GaussianMap, camera: Camera, channels: int) -> Callable[[], dict[str, Tensor]]:
    """A call that renders and goes back; gives the gradients."""
    names = ("means", "quats_wxyz", "scales", "opacities", "sh")
    leaves = {name: getattr(gaussians, name).to(backend.device).requires_grad_() for name in names}
    generator = torch.Generator().manual_seed(0)
    extra = torch.randn(len(gaussians), channels, generator=generator).to(backend.device) if channels else None
    if extra is not None:
        leaves["extra"] = extra.requires_grad_()
    wanted = torch.randn(camera.height, camera.width, 3 + channels, generator=generator).to(backend.device)

    def step() -> dict[str, Tensor]:
        drawn = backend.render_with_gradients(*(leaves[name] for name in names), camera, POSE, extra)
        loss = (drawn.color * wanted[..., :3]).sum()
        if drawn.extra is not None:
            loss = loss + (drawn.extra * wanted[..., 3:]).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    return step


def queries(backend: CudaBackend, size: Size, results: Results) -> None:
    """Questions where the features lie: cosines of a text and their mask, and nearest patches."""
    device = backend.device
    features = torch.randn(size.gaussians, 512, device=device)
    norms, prompts = torch.linalg.vector_norm(features, dim=1), torch.randn(2, 512, device=device)

    def ask() -> Tensor:
        highest, best = cosine(features, prompts, norms).max(dim=1)
        return (best == 0) & (highest > 0.1)

    results["text_query_seconds"] = timed(ask, device, size.repeats)
    many, few = size.neighbours
    patches, asked = torch.randn(few, 384), torch.randn(many, 384, device=device)
    near = partial(nearest_patches, lambda rows: asked[rows], many, patches, 5, device=device)
    results["knn_seconds"] = timed(near, device, max(1, size.repeats // 4))


def throughput(backend: CudaBackend, size: Size, results: Results) -> None:
    """Views per second from decoded images to sums: a network of the shape of DINOv2 ViT-S, random, and its cells."""
    gaussians, device = room(size.gaussians), backend.device
    small = size.gaussians < FULL.gaussians
    width, height, blocks = (84, 56, 1) if small else (640, 480, 12)
    camera = Camera(width, height, 0.8 * width, 0.8 * width, width / 2, height / 2)
    patches = nn.Conv2d(3, 384, 14, 14).to(device)
    layer = nn.TransformerEncoderLayer(384, 6, 1536, activation="gelu", batch_first=True, norm_first=True)
    network = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False).eval().to(device)
    sums, waiting = backend.accumulator(gaussians, 384), []
    image = torch.randint(0, 255, (1, 3, height // 14 * 14, width // 14 * 14), dtype=torch.uint8)

    @torch.inference_mode()
    def take() -> None:
        cells = patches(upload(image, device).float() / 255)
        features = network(cells.flatten(2).transpose(1, 2))[0].reshape(*cells.shape[2:], 384)
        waiting.append((rasterizer.view(gaussians, camera, POSE, backend), FeatureGrid(features), None))
        if len(waiting) == BATCH:
            sums.add(*zip(*waiting, strict=True))
            waiting.clear()

    def batch() -> None:
        for _ in range(BATCH):
            take()

    results["views_per_second"] = BATCH / timed(batch, device, 1 if small else 5)


def paper(backend: CudaBackend, size: Size, results: Results) -> None:
    """The paper's way through gsplat's autograd: upsample, render D channels, go back; the baseline of the ratios."""
    try:
        if backend.device.type == "cpu":
            raise ImportError("gsplat rasterises on cards only")
        from gsplat import rasterization
    except ImportError as error:
        results["paper's way"] = f"not measured: {error}"
        return
    few = room(min(200_000, size.gaussians))
    try:
        step = _gradients(GsplatBackend(backend), few, size.camera, 0)
        results["gradients_0_gsplat_seconds"] = seconds = timed(step, backend.device, max(1, size.repeats // 4))
        results["gradients_0 over gsplat's"] = results["gradients_0_seconds"] / seconds
    except (BackendError, RuntimeError) as error:
        results["gsplat's gradients"] = f"not measured: {str(error)[:200]}"
    gaussians, camera, device = room(size.gaussians), size.camera, backend.device
    geometry = [
        tensor.to(device) for tensor in (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities)
    ]
    view, intrinsics = (torch.from_numpy(matrix).float().to(device)[None] for matrix in (POSE, camera.matrix))
    for channels in size.channels:
        features = torch.zeros(len(gaussians), channels, device=device, requires_grad=True)
        host = size.grid(16, channels, torch.device("cpu"))
        wanted = upsample(host, camera.height, camera.width).to(device)

        def lift(features: Tensor = features, wanted: Tensor = wanted) -> None:
            image, _, _ = rasterization(*geometry, features, view, intrinsics, camera.width, camera.height)
            torch.autograd.grad((image[0] * wanted).sum(), features)

        try:
            results[f"paper's way {channels} seconds"] = seconds = timed(lift, device, 3)
        except (RuntimeError, ImportError, OSError) as error:  # no nvcc, or no memory for D channels of every pixel
            results["paper's way"] = f"not measured: {str(error)[:200]}"
            return
        for cell in (16, 14, 2):
            ours = results[f"backproject {cell}px {channels} seconds_per_view"]
            results[f"paper's way over {cell}px {channels}"] = seconds / ours
