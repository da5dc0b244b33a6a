"""What the peers' measurements on a card share: its own clock, its peaks in the same run, its memory."""
import sys

import torch

import measure


def expect_card(script):
    """Ends the program with a sentence where there is no card."""
    if not torch.cuda.is_available():
        sys.exit(f"{script}: torch finds no CUDA device on this machine")


def timed(work, repeats, each=1):
    """Best seconds of one work(): `repeats` times `each` calls in a row, after one round that does not count."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    best = float("inf")
    for round in range(-1, repeats):
        start.record()
        for _ in range(each):
            work()
        stop.record()
        stop.synchronize()
        if round >= 0:
            best = min(best, start.elapsed_time(stop) / 1e3 / each)
    return best


def gemm_peak(dtype, edge=8192):
    """The best rate of torch's square product, in GFLOP/s; in f32 as torch.backends.cuda.matmul.allow_tf32 says."""
    left, right = (torch.randn(edge, edge, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * edge**3 / timed(lambda: left @ right, 8, 2) / 1e9


def memory_gb():
    """The most that torch's allocator has held."""
    return torch.cuda.max_memory_reserved() / 1e9


def report(work, mode, rate, unit, share, **more):
    measure.report(work, mode, rate, unit, share, **more, card=torch.cuda.get_device_name())


def report_too_large(work, mode):
    """A line for what the card's memory does not hold."""
    report(work, mode, 0.0, "", 0.0, fits=False)
