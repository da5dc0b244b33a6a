"""What the peers' measurements share: a clock, the machine's peaks of this moment, the line they print."""
import json
import resource
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode


def timed(work, repeats, warm):
    """Best and median seconds of `repeats` runs that follow `warm` untimed ones."""
    for _ in range(warm):
        work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), statistics.median(seconds)


def gemm_peak(dtype, edge=2048):
    """The best rate of torch's square product, in GFLOP/s: what every share is a share of.

    In f32 torch calls MKL, which on some processors stays at half of what the machine can do: to set a peer beside
    another library compare seconds or pairs, or divide `gflops` by one peak for both.
    """
    left, right = (torch.randn(edge, edge).to(dtype) for _ in range(2))
    best, _ = timed(lambda: left @ right, 8, 2)
    return 2 * edge**3 / best / 1e9


def beside_peak(dtype, work, repeats, warm):
    """Best and median seconds of `work`, and the higher of the GEMM peaks just before and just after it."""
    before = gemm_peak(dtype)
    best, median = timed(work, repeats, warm)
    return best, median, max(before, gemm_peak(dtype))


def gflop(work):
    """Floating-point operations of one run, in units of 1e9, by torch's own count (products only)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def most_memory():
    """The process's largest resident set so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(work, mode, rate, unit, share_of_peak, **more):
    """Prints one JSON line; `more` follows the keys that every line has."""
    line = {"work": work, "mode": mode, "rate": rate, "unit": unit, "share_of_peak": share_of_peak}
    line |= more | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in line.items()}), flush=True)
