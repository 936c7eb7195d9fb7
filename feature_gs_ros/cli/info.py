"""``feature-gs info``: what a file or folder is."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.backprojection.field import FORMAT, FeatureField
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.progress import say
from feature_gs_ros.io.formats import format_of
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import open_stream


def info(path: Path, /, *, json: bool = False, bag: RecordingOptions = NO_OPTIONS) -> int:
    """Describe a file or folder: a splat map or checkpoint, a field, or a stream.

    Args:
        path: file or folder.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    if not path.exists():
        raise FeatureGsError(f"there is nothing at '{path}'")
    facts = _facts(path, bag)
    if json:
        print_json(facts)
        return 0
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        say(f"{key:<{width}}  {value}")
    return 0


def _facts(path: Path, bag: BagOptions) -> dict[str, object]:
    if path.is_dir() or path.suffix in (".mcap", ".db3", ".bag", ".json"):
        return _stream_facts(path, bag)
    return _field_facts(path) if format_of(path) == FORMAT else _map_facts(path)


def _field_facts(path: Path) -> dict[str, object]:
    field = FeatureField.load(path)
    provenance = field.provenance
    return {
        "kind": "field",
        "gaussians": len(field),
        "seen": int(field.seen.sum()),
        "teacher": field.extractor.name,
        "preprocessing": dict(field.extractor.preprocessing),
        "dimension": field.dimension,
        "stored": f"{field.features.shape[1]} × {str(field.features.dtype).removeprefix('torch.')}",
        "codec": f"{field.codec.kind}; keeps {field.codec.preserves}" if field.codec else "none",
        "views": len(provenance.frames),
        "looks": len(field.looks),
        "look_bytes": field.looks.nbytes,
        "map": provenance.map_path,
        "map_notes": list(provenance.map_notes),
        "stream": provenance.stream,
        "earlier_streams": [recording.stream for recording in provenance.earlier],
        "metres_to_splat": provenance.splat_from_map.scale,
        "findings": [finding.as_json() for finding in provenance.findings],
    }


def _map_facts(path: Path) -> dict[str, object]:
    gaussians = load_map(path)
    low, high = gaussians.means.amin(dim=0), gaussians.means.amax(dim=0)
    return {
        "kind": "map",
        "gaussians": len(gaussians),
        "dropped": str(gaussians.dropped),
        "sh_degree": gaussians.sh_degree,
        "bounds_min": [round(float(value), 4) for value in low],
        "bounds_max": [round(float(value), 4) for value in high],
        "median_scale": round(float(gaussians.scales.median()), 6),
        "mean_opacity": round(float(gaussians.opacities.mean()), 4),
        "checksum": gaussians.checksum,
        "notes": list(gaussians.notes),
    }


def _stream_facts(path: Path, bag: BagOptions) -> dict[str, object]:
    stream = open_stream(path, bag=bag)
    names = stream.names()
    first = next(iter(stream.frames(names[:1])))
    camera = first.camera
    return {
        "kind": "stream",
        "frames": len(names),
        "first": names[0],
        "last": names[-1],
        "image": f"{camera.width}×{camera.height}",
        "fx_fy_cx_cy": [round(value, 3) for value in (camera.fx, camera.fy, camera.cx, camera.cy)],
        "distortion": camera.distortion.model if camera.distortion else "none",
        "source": first.source,
        "skipped": dict(stream.skipped),
    }
