"""The card's side of the native snippets, run without a card: thirty-two threads of C++ that exchange as lanes do.

What Warp's CPU device compiles is the other side, of one lane; this one no other test runs.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

native = pytest.importorskip("feature_gs_ros.rasterizer.cuda.kernels.native", exc_type=ImportError)

LANES = r"""
#include <barrier>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>
#define __CUDA_ARCH__ 900
struct Index { int x; };
struct Array { float* data; };
static thread_local Index threadIdx;
static std::barrier<> meeting(32);
static std::mutex adding;
static float given[32];
static int adds = 0;
static float __shfl_xor_sync(unsigned mask, float x, int offset) {
    const int lane = threadIdx.x & 31;
    given[lane] = mask == 0xffffffffu ? x : 0.0f / 0.0f;
    meeting.arrive_and_wait();
    const float found = given[lane ^ offset];
    meeting.arrive_and_wait();
    return found;
}
static unsigned __ballot_sync(unsigned mask, bool x) {
    given[threadIdx.x & 31] = x && mask == 0xffffffffu;
    meeting.arrive_and_wait();
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= unsigned(given[lane] != 0) << lane;
    meeting.arrive_and_wait();
    return bits;
}
static bool __any_sync(unsigned mask, bool x) { return __ballot_sync(mask, x) != 0; }
static int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
static void atomicAdd(float* at, float x) { std::lock_guard lock(adding); *at += x; ++adds; }
"""

MAIN = r"""
int main() {
    std::vector<float> out(64, 0.0f);
    unsigned bits[32];
    int lanes_seen[32], first[32];
    bool any[32], none[32];
    std::vector<std::thread> threads;
    for (int k = 0; k < 32; ++k) threads.emplace_back([&, k] {
        threadIdx.x = 96 + k;  // the fourth warp of a block
        lanes_seen[k] = lane();
        bits[k] = ballot(k % 5 == 2);
        first[k] = first_bit(bits[k]);
        any[k] = any_lane(k == 31);
        none[k] = any_lane(false);
        add_four(Array{out.data()}, 3, 10, float(k), float(k * k), k % 2 ? 1.0f : 0.25f, 0.0f);
    });
    for (auto& thread : threads) thread.join();
    for (int k = 0; k < 32; ++k) std::printf("%d %u %d %d %d\n", lanes_seen[k], bits[k], first[k], any[k], none[k]);
    std::printf("%d %d\n", lanes(), adds);
    for (float x : out) std::printf("%.9g ", x);
}
"""

FUNCTIONS = {
    "int lane()": native.lane,
    "int lanes()": native.lanes,
    "bool any_lane(bool x)": native.any_lane,
    "unsigned ballot(bool x)": native.ballot,
    "int first_bit(unsigned bits)": native.first_bit,
    "void add_four(Array out, int first, int line, float a, float b, float c, float d)": native.add_four,
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("lanes")
    source, program = folder / "lanes.cpp", folder / "lanes"
    snippets = [f"static {head} {{\n{function.native_snippet}\n}}\n" for head, function in FUNCTIONS.items()]
    source.write_text(LANES + "".join(snippets) + MAIN)
    subprocess.run([compiler, "-std=c++20", "-O1", "-pthread", source, "-o", program], check=True)
    report = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout
    return [[float(word) for word in line.split()] for line in report.splitlines()]


def test_lanes_vote(lines: list[list[float]]) -> None:
    voted = sum(1 << lane for lane in range(32) if lane % 5 == 2)
    assert lines[:32] == [[lane, voted, 2, 1, 0] for lane in range(32)]
    assert lines[32][0] == 32


def test_four_sums_fall_where_they_belong(lines: list[list[float]]) -> None:
    """From place 3 on, the second pair a line of 10 further; the sum that is 0 is not added."""
    expected = np.zeros(64)
    lane = np.arange(32)
    expected[[3, 4, 13]] = lane.sum(), (lane * lane).sum(), 16 * 1.25
    np.testing.assert_allclose(lines[33], expected)
    assert lines[32][1] == 3


def test_the_file_is_short() -> None:
    assert len(Path(native.__file__).read_text().splitlines()) < 60
