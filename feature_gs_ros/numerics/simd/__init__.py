"""Vectors of sixteen float32 inside kernels: one row of a tile's pixels, or sixteen channels of a pixel.

The compiler turns plain loops into vector code by itself, but it can't keep sums over a tile's rows in registers,
and it guards every short loop with checks that cost more than the loop. These kernels live on short loops, so they
say what they mean: ``total += weight * load(fractions, lane)``.

There are two implementations of the same operations, and one source of each kernel: `llvm`, vectors of LLVM's, and
`scalar`, lane by lane, where the first don't compile or give wrong values (`probe`), or `FEATURE_GS_SIMD=0` asks for
it. Arithmetic and ``>``, ``>=`` take vectors and numbers; comparisons give masks, of which there is ``&``. Arrays are
float32 and contiguous, of one dimension unless said; no bounds are checked.

=====================================  =============================================================================
``load(a, i)``, ``store(a, i, v)``     ``a[i : i + 16]``
``store_first(a, i, v, count)``        the first ``count`` lanes alone
``load_rows``, ``store_rows``          two halves, eight floats each, from two indices on
``store_totals(a, i, p, q, r, s)``     ``a[i : i + 4]`` = the sums of four vectors
``broadcast(x)``                       x in all lanes
``put(v, k, x)``                       v with x in lane k
``where(mask, v)``                     v where the mask holds, else 0
``minimum``, ``maximum``               lane by lane, of vectors and numbers
``total(v)``                           Σ of the lanes, float32
``bits(mask)``                         int64 with bit k for lane k
``first_bit(n)``, ``end_bit(n)``       index of the lowest bit that is set (64: none), one past the highest (0: none)
``count_bits(n)``                      how many are set
``square_root(v)``                     √, v ≥ 0
``float_parts(v)``                     (mantissa in [1, 2), exponent), v positive and normal
``load_scalars(a, i)``                 as ``load``, zeros after the array's end
``load_triples``, ``load_quadruples``  rows i … i + 15 of arrays [n, 3] and [n, 4] as their columns; zeros likewise
``pack_scalars(a, i, v, kept)``        lanes whose bits are set in ``kept`` side by side from a[i] on; room for 16
``pack_indices(a, i, start, kept)``    the same of start, start + 1, … to an int32 array
``pack_octets(a, i, columns, kept)``   the same of rows of eight, given as eight vectors, to an array [n, 8]
``prefetch(a, i)``                     ask for ``a.flat[i]`` of any array; no effect on results
=====================================  =============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_gs_ros.numerics.simd.probe import reason_for_scalars
from feature_gs_ros.numerics.simd.size import SIZE

if TYPE_CHECKING or not reason_for_scalars():
    from feature_gs_ros.numerics.simd.llvm.math import float_parts, square_root
    from feature_gs_ros.numerics.simd.llvm.transpose import (
        count_bits,
        load_quadruples,
        load_scalars,
        load_triples,
        pack_indices,
        pack_octets,
        pack_scalars,
    )
    from feature_gs_ros.numerics.simd.llvm.two_rows import load_rows, store_rows, store_totals
    from feature_gs_ros.numerics.simd.llvm.types import (
        bits,
        broadcast,
        end_bit,
        first_bit,
        load,
        maximum,
        minimum,
        prefetch,
        put,
        store,
        store_first,
        total,
        where,
    )
else:
    from feature_gs_ros.numerics.simd.scalar import (
        bits,
        broadcast,
        count_bits,
        end_bit,
        first_bit,
        float_parts,
        load,
        load_quadruples,
        load_rows,
        load_scalars,
        load_triples,
        maximum,
        minimum,
        pack_indices,
        pack_octets,
        pack_scalars,
        prefetch,
        put,
        square_root,
        store,
        store_first,
        store_rows,
        store_totals,
        total,
        where,
    )

__all__ = [
    "SIZE",
    "bits",
    "broadcast",
    "count_bits",
    "end_bit",
    "first_bit",
    "float_parts",
    "load",
    "load_quadruples",
    "load_rows",
    "load_scalars",
    "load_triples",
    "maximum",
    "minimum",
    "pack_indices",
    "pack_octets",
    "pack_scalars",
    "prefetch",
    "put",
    "reason_for_scalars",
    "square_root",
    "store",
    "store_first",
    "store_rows",
    "store_totals",
    "total",
    "where",
]
