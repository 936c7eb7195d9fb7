"""Images of 16 bits of which a sensor fills fewer: a stream's images are brought to full brightness together."""

from __future__ import annotations

import logging

from feature_gs_ros.io.images import bits_in_use

log = logging.getLogger(__name__)


def bits_of_stream(brightest: int, source: str) -> int:
    """Bits in use of a stream's 16, by the brightest value of several images; a warning where they are fewer.

    An image that is black throughout says nothing: all 16 are taken for used.
    """
    bits = bits_in_use(brightest) if brightest else 16
    if bits < 16:
        log.warning(
            "images of '%s' have 16 bits but values up to %d: taken for %d bits, so that %d is white",
            source, brightest, bits, (1 << bits) - 1,
        )  # fmt: skip
    return bits
