"""``feature-gs compress``: a field with fewer bytes per Gaussian."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.backprojection.compression import DEFAULT_CHANNELS, compress_field
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.cli.checks import check_number, check_outputs
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.progress import say, told_when_slow
from feature_gs_ros.io.locks import locked


def compress(field: Path, /, *, out: Path, bytes: int = DEFAULT_CHANNELS, json: bool = False) -> int:  # noqa: A002
    """Store a field in fewer bytes per Gaussian: principal components, eight bits each.

    Queries, views, pages and nodes take it as any field. Merge fields first and compress then: compressed ones of two
    jobs have different codecs.

    Args:
        field: written by feature-gs backproject or merge.
        out: the compressed field to write.
        bytes: per Gaussian; more keep more. For the default extractor's thousand words take 256.
        json: print one JSON object.
    """
    check_outputs({"--out": out}, [field])
    check_number("--bytes", bytes, 1)
    before = FeatureField.load(field)
    with told_when_slow(f"compressing {len(before)} Gaussians"), locked(out):
        small = compress_field(before, bytes)
        small.field.save(out)
    was = before.features.shape[1] * before.features.element_size()
    if json:
        print_json({"field": str(out), "bytes": bytes, "bytes_before": was, "variance_kept": round(small.kept, 6)})
    else:
        say(f"{bytes} bytes per Gaussian instead of {was}, {small.kept:.1%} of the variance kept")
        say(f"wrote {out}")
    return 0
