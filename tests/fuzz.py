"""``make fuzz``: sound files of every format, damaged at random, through every reader, for two minutes.

    python -m tests.fuzz [--seconds 120] [--seed 0] [--only NAME] [--megabytes 1500] [--keep FOLDER]

A reader passes if each input is read or raises an error of ours, within ten seconds and the memory. A seed gives the
same inputs, however many there is time for. Inputs that fail are kept.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import torch
from rosbags.rosbag2.reader import zstd
from safetensors.torch import save_file

from feature_gs_ros.affordance.library import Library
from feature_gs_ros.affordance.source import Source
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.core.camera import rectified
from feature_gs_ros.core.errors import FeatureGsError, TrainingError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.editing import Delete, Edit, EditStack, Recolor, Selection
from feature_gs_ros.evaluation.protocols.lerf_ovs import read_polygons
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.extractors.precomputed import PrecomputedExtractor
from feature_gs_ros.frames.markers import load_markers
from feature_gs_ros.frames.points import load_point_pairs
from feature_gs_ros.identity.masks import SamMasks
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.coco_masks import CocoMasks
from feature_gs_ros.io.detections import DetectionMasks
from feature_gs_ros.io.images import load_image
from feature_gs_ros.io.masks import MaskFolder, load_labels
from feature_gs_ros.io.messages.camera_info import camera_from_info, load_calibration
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.io.tensors import read_tensor_file, write_tensor_file
from feature_gs_ros.training.checkpoint import FORMAT as TRAINING
from tests.foxglove_recordings import content, write_mcap
from tests.little_scene import two_halves, write_stream
from tests.recordings import record
from tests.splat_samples import (
    gsplat_checkpoint,
    inria_checkpoint,
    nerfstudio_checkpoint,
    random_parameters,
    write_antimatter,
    write_compressed,
    write_ply,
)

LONGEST = 10.0  # s for one input
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
TOKENS = (
    b"null", b"true", b"-1", b"1e400", b"NaN", b"-Infinity", b"9" * 400, b"[]", b"{}", b'""', b'"\\u0000"', b"[[[[[[",
    b"&a [*a]", b"!!python/name:os.system", b"../../x", b"\xff\xfe", b"\x1b[2J", b"\n", b":", b"- ", b"'",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A format: the file that is damaged, within a folder that is sound, and what reads it."""

    name: str
    file: str
    prepare: Callable[[Path], object]  # writes the sound folder
    read: Callable[[Path], object]  # of the file


class Hang(BaseException):
    """An input takes too long; no ``except Exception`` keeps this from ending it."""


def sound_map() -> GaussianMap:
    return two_halves(50)


def _field(path: Path) -> None:
    count = torch.ones(50, dtype=torch.int32)
    identity = ExtractorIdentity("color", "", {"space": "rgb"})
    FeatureField(torch.rand(50, 3), torch.ones(50), count, identity, Provenance(sound_map().checksum)).save(path)


def _edits(path: Path) -> None:
    stack = EditStack(sound_map())
    stack.push(Edit(Delete(), "a", Selection(torch.arange(5), torch.ones(5))))
    stack.push(Edit(Recolor((1.0, 0.0, 0.0)), "b", Selection(torch.arange(9, 20), torch.full((11,), 0.5))))
    stack.save(path)


def _library(path: Path) -> None:
    image = torch.from_numpy(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].ravel().copy())
    source = Source("cup", ("grip",), "mug", image, image, torch.rand(4, 3), torch.ones(4, 1))
    Library(ExtractorIdentity("color"), 0.5, (source,)).save(path)


def _checked_library(path: Path) -> None:
    for source in Library.load(path).sources:
        source.decoded_image()


def _colmap(path: Path) -> None:
    folder = path.parents[1]
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((6, 8, 3), np.uint8))
    (folder / "sparse" / "cameras.txt").write_text("1 OPENCV 8 6 9.0 9.0 4.0 3.0 0.1 0 0 0\n")
    (folder / "sparse" / "images.txt").write_text("1 1 0 0 0 0 0 1 1 a.png\n\n")


def _frames(path: Path) -> None:
    stream = open_stream(path)
    for frame in stream.frames():
        rectified(frame.image, frame.camera)


def _calibration(path: Path) -> None:
    camera_from_info(load_calibration(path), 8, 6)


def _coco(path: Path) -> None:
    masks = CocoMasks(path)
    for name in masks.names():
        masks.load(name)


def _text(content: object) -> Callable[[Path], object]:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda path: path.write_text(text)


def _checkpoint(make: Callable[..., object]) -> Callable[[Path], object]:
    return lambda path: torch.save(make(random_parameters(6, 1)), path)


def _array(path: Path) -> None:
    values = np.random.default_rng(0).random((3, 4, 2)).astype(np.float32)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, features=values, rectangle=np.array([0.0, 0.0, 1.0, 1.0]))
    else:
        save_file({"features": torch.from_numpy(values)}, path)


def _mask(path: Path) -> None:
    cv2.imwrite(str(path), np.arange(48, dtype=np.uint8).reshape(6, 8))


def _colours(path: Path) -> None:
    path.write_text("background:0,0,0::\nmug:10,20,30::\n")
    (path.parent / "masks").mkdir()
    cv2.imwrite(str(path.parent / "masks" / "a.png"), np.zeros((6, 8, 3), np.uint8))


def _packed(path: Path) -> None:
    path.write_bytes(zstd.compress(write_mcap(path.with_name("whole.mcap"), content(2)).read_bytes()))


def _picture(path: Path) -> None:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


RLE = {"size": [2, 3], "counts": [1, 5]}
POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
CALIBRATION = """image_width: 8
image_height: 6
distortion_model: plumb_bob
camera_matrix: {rows: 3, cols: 3, data: [9, 0, 4, 0, 9, 3, 0, 0, 1]}
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, 0.0, 0.0, 0.0, 0.0]}
"""
ALIGNMENT = "splat_from_map: {scale: 2.0, rotation_wxyz: [1, 0, 0, 0], translation: [0, 0, 1]}\n"
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 2, "width": 3}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "segmentation": RLE},
        {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 1]]},
    ],
    "categories": [{"id": 1, "name": "mug"}],
}
FRAME = {"file_path": "images/0000.png", "transform_matrix": POSE}
NERFSTUDIO = {"w": 64, "h": 48, "fl_x": 60.0, "k1": 0.1, "frames": [FRAME]}
LABELME = {
    "imageHeight": 6, "imageWidth": 8,
    "shapes": [
        {"label": "mug", "shape_type": "polygon", "points": [[0, 0], [3, 0], [3, 2]]},
        {"label": "cup", "shape_type": "circle", "points": [[4, 4], [5, 5]]},
    ],
}  # fmt: skip
POLYGON = {"category": "a", "segmentation": [[1, 1], [5, 1], [5, 5]]}
POLYGONS = {"info": {"height": 8, "width": 8}, "objects": [POLYGON]}


def _nerfstudio(path: Path) -> None:
    write_stream(path.parent, ("0000",))
    (path.parent / "cameras.json").unlink()
    path.write_text(json.dumps(NERFSTUDIO))


def _bag(storage: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.parent.rmdir()  # the writer wants to make it
        record(path.parent, storage, count=2)

    return write


TARGETS = (
    Target("ply", "map.ply", lambda path: write_ply(path, random_parameters(6, 1).columns()), load_map),
    Target("text ply", "map.ply", lambda path: write_ply(path, random_parameters(6, 1).columns(), text=True), load_map),
    Target("compressed ply", "map.ply", lambda path: write_compressed(path, random_parameters(6, 1)), load_map),
    Target("splat", "map.splat", lambda path: write_antimatter(path, random_parameters(6, 1)), load_map),
    Target("gsplat", "map.pt", _checkpoint(gsplat_checkpoint), load_map),
    Target("nerfstudio checkpoint", "map.ckpt", _checkpoint(nerfstudio_checkpoint), load_map),
    Target("inria", "map.pth", _checkpoint(inria_checkpoint), load_map),
    Target("png", "image.png", _picture, load_image),
    Target("jpeg", "image.jpg", _picture, load_image),
    Target("mask", "mask.png", _mask, lambda path: MaskFolder(path.parent).load("mask")),
    Target("labels", "labels.yaml", _text("1: mug\nbowl: 2\n"), load_labels),
    Target("alignment", "alignment.yaml", _text(ALIGNMENT), load_alignment),
    Target("dataparser", "alignment.json", _text({"transform": POSE[:3], "scale": 2.0}), load_alignment),
    Target("calibration", "camera.yaml", _text(CALIBRATION), _calibration),
    Target(
        "markers", "markers.yaml",
        _text("size: 0.1\nmarkers: {3: {translation: [0, 0, 0], rotation_wxyz: [1, 0, 0, 0]}}\n"), load_markers,
    ),
    Target("pairs", "pairs.yaml", _text("points: {a: {map: [0, 0, 1], splat: [1, 0, 0]}}\n"), load_point_pairs),
    Target("cameras.json", "cameras.json", lambda path: write_stream(path.parent, ("0000", "0001")), _frames),
    Target("transforms.json", "transforms.json", _nerfstudio, _frames),
    *(
        Target(f"colmap {part}", f"sparse/{part}.txt", _colmap, lambda path: _frames(path.parents[1]))
        for part in ("cameras", "images")
    ),
    Target("mcap", "bag/bag.mcap", _bag("mcap"), lambda path: _frames(path.parent)),
    Target("sqlite", "bag/bag.db3", _bag("sqlite3"), lambda path: _frames(path.parent)),
    Target("bag's metadata", "bag/metadata.yaml", _bag("mcap"), lambda path: _frames(path.parent)),
    Target("coco", "coco.json", _text(COCO), _coco),
    Target("sam", "a.json", _text([{"segmentation": RLE}]), lambda path: SamMasks(path.parent).load("a")),
    Target(
        "detections",
        "a.json",
        _text({"detections": [{"name": "mug", "score": 0.5, "segmentation": RLE}]}),
        lambda path: DetectionMasks(path.parent).load("a"),
    ),
    Target(
        "polygons", "a.json",
        _text(POLYGONS), read_polygons,
    ),
    *(
        Target(suffix[1:], f"maps/a{suffix}", _array, lambda path: PrecomputedExtractor(path.parent))
        for suffix in (".npy", ".npz", ".safetensors")
    ),
    Target("labelme", "a.json", _text(LABELME), lambda path: DetectionMasks(path.parent).load("a")),
    Target("colour table", "labelmap.txt", _colours, lambda path: MaskFolder(path.parent / "masks").load("a")),
    Target("foxglove json", "a.mcap", lambda path: write_mcap(path, content(2)), _frames),
    Target("foxglove protobuf", "a.mcap", lambda path: write_mcap(path, content(2), "protobuf", "lz4"), _frames),
    Target("packed recording", "a.mcap.zstd", _packed, _frames),
    Target("field", "field", _field, FeatureField.load),
    Target("edits", "edits", _edits, lambda path: EditStack.load(path, sound_map()).edited()),
    Target("library", "library", _library, _checked_library),
    Target(
        "training", "run.training",
        lambda path: write_tensor_file(path, TRAINING, {"a": torch.ones(3)}, {"iteration": 1}),
        lambda path: read_tensor_file(path, TRAINING, TrainingError, "start anew"),
    ),
)  # fmt: skip


def damaged(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The bytes after one to four changes: cut, flipped, overwritten by extremes and tokens, repeated or spliced."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = min(len(data) - at, rng.choice((1, 2, 4, 8, 40, 300)))
        match rng.randrange(8):
            case 0:
                data = data[:at]
            case 1 if length:
                data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
            case 2:
                size = rng.choice((1, 2, 4, 8))
                value = (rng.choice(EXTREMES) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
                data = data[:at] + value + data[at + size :]
            case 3:
                data = data[:at] + data[at + length :]
            case 4:
                data = data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]
            case 5:
                data = data[:at] + rng.choice(TOKENS) + data[at + length * rng.randrange(2) :]
            case 6:
                start = rng.randrange(len(other) + 1)
                data = data[:at] + other[start : start + length] + data[at + length :]
            case _:
                numbers = [k for k, byte in enumerate(data[:20_000]) if 48 <= byte < 58]
                if numbers:
                    k = rng.choice(numbers)
                    data = data[:k] + rng.choice(TOKENS) + data[k + 1 :]
    return data[: 1 << 22]


def read_one(target: Target, path: Path) -> str:
    """What became of an input: "read", or the error's code; anything else is raised.

    Raises:
        Exception: the reader let an error through that isn't ours.
        Hang: it took too long.
    """
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        target.read(path)
        return "read"
    except FeatureGsError as error:
        if not str(error).isprintable():
            raise AssertionError(f"the message of {error!r} isn't printable") from error
        return error.code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def inputs(target: Target, folder: Path, rng: random.Random, samples: list[bytes]) -> Iterator[Path]:
    """Without end: the target's file, damaged anew for each, in a folder of sound files."""
    path = folder / target.file
    path.parent.mkdir(parents=True, exist_ok=True)
    target.prepare(path)
    target.read(path)  # the sound one is read
    sound = path.read_bytes()
    samples.append(sound)
    while True:
        path.unlink(missing_ok=True)
        path.write_bytes(damaged(sound, rng.choice(samples), rng))
        yield path


def fuzz(
    seconds: float, seed: int, keep: Path, targets: tuple[Target, ...] = TARGETS, most: int | None = None
) -> tuple[Counter[str], list[Path]]:
    """Inputs for each target in turn; how many had which outcome, and the files of those that did not pass."""
    outcomes: Counter[str] = Counter()
    failed: list[Path] = []
    samples: list[bytes] = []
    with tempfile.TemporaryDirectory() as scratch:
        sources = {
            target.name: inputs(target, Path(scratch, str(number)), random.Random(f"{seed} {target.name}"), samples)
            for number, target in enumerate(targets)
        }
        end = time.monotonic() + seconds
        while time.monotonic() < end and (most is None or outcomes.total() < most):
            for target in targets:
                path = next(sources[target.name])
                try:
                    outcomes[f"{target.name}: {read_one(target, path)}"] += 1
                except (Exception, Hang):
                    outcomes[f"{target.name}: FAILED"] += 1
                    keep.mkdir(parents=True, exist_ok=True)
                    kept = keep / f"{len(failed):03d}-{target.name}-{path.name}".replace(" ", "-").replace("'", "")
                    shutil.copy(path, kept)
                    failed.append(kept)
                    print(f"\n{kept}\n{traceback.format_exc(limit=-4)}", file=sys.stderr)
    return outcomes, failed


def limit_memory(megabytes: int) -> None:
    """An allocation beyond what the process has now and so much more fails, and with it the input."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20),) * 2)


def hang(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Hang


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one format, by its name")
    parser.add_argument("--megabytes", type=int, default=1500, help="that reading may take")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder of the inputs that fail")
    options = parser.parse_args()
    targets = tuple(target for target in TARGETS if options.only in (None, target.name))
    signal.signal(signal.SIGALRM, hang)
    torch.set_num_threads(1)
    limit_memory(options.megabytes)
    outcomes, failed = fuzz(options.seconds, options.seed, options.keep, targets)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8d}  {outcome}")
    print(f"{outcomes.total()} inputs of {len(targets)} formats, {len(failed)} failed (seed {options.seed})")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
