"""All that differs between devices: the lanes of a warp. On Warp's CPU device a warp is one lane, a thread by itself.

Every snippet is called by all 32 lanes of a warp together: kernels that use them are launched in blocks of a multiple
of 32 threads, and branch around them only on what all lanes agree on. That is what the full masks assert.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})


def _of(card: str, cpu: str) -> str:
    """One source for NVRTC, which compiles for a card, and for clang, which compiles for the CPU."""
    return f"#if defined(__CUDA_ARCH__)\n{card}\n#else\n{cpu}\n#endif\n"


# Blocks are one-dimensional and hold whole warps, so the lane is the low five bits of the thread's index.
@wp.func_native(_of("return threadIdx.x & 31;", "return 0;"))
def lane() -> int: ...


# How far a warp moves on in a list at once: an entry per lane.
@wp.func_native(_of("return 32;", "return 1;"))
def lanes() -> int: ...


# The vote also brings diverged lanes together again: since Volta nothing else promises that they are.
@wp.func_native(_of("return __any_sync(0xffffffffu, x);", "return x;"))
def any_lane(x: bool) -> bool: ...


# Bit l is lane l's answer; all lanes get the same word, so a loop over its bits is in lockstep.
@wp.func_native(_of("return __ballot_sync(0xffffffffu, x);", "return x ? 1u : 0u;"))
def ballot(x: bool) -> wp.uint32: ...


# Never called with 0, for which __ffs would give -1; on the CPU the only bit is bit 0.
@wp.func_native(_of("return __ffs(bits) - 1;", "return 0;"))
def first_bit(bits: wp.uint32) -> int: ...


# Four sums over the warp by six exchanges, not twenty: the first leaves each lane two of the values, the second one;
# three more add up groups of eight. Lane 8 k then holds sum k. Several warps add to one place in any order, so float32
# sums differ in their last bits between runs. Zeros are not added: their place may lie beyond the last cell.
@wp.func_native(
    _of("""
    const bool upper = threadIdx.x & 16, second = threadIdx.x & 8;
    const float s = (upper ? c : a) + __shfl_xor_sync(0xffffffffu, upper ? a : c, 16);
    const float t = (upper ? d : b) + __shfl_xor_sync(0xffffffffu, upper ? b : d, 16);
    float x = (second ? t : s) + __shfl_xor_sync(0xffffffffu, second ? s : t, 8);
    for (int o = 4; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
    const int at = first + (upper ? line : 0) + (second ? 1 : 0);
    if ((threadIdx.x & 7) == 0 && x != 0.0f) atomicAdd(&out.data[at], x);""", """
    const float sums[4] = {a, b, c, d};
    for (int k = 0; k < 4; ++k) if (sums[k] != 0.0f) out.data[first + (k >> 1) * line + (k & 1)] += sums[k];""")
)  # fmt: skip
def add_four(out: wp.array(dtype=float), first: int, line: int, a: float, b: float, c: float, d: float): ...
