"""Symmetric InfoNCE on a card, forward and backward, on given embeddings of B pairs and width D.

usage: cuda_info_nce.py [B] [D] [MODE]      default: 65536 1024 dense
MODE: dense, chunked (rows in blocks, each recomputed in the backward), dense-tf32, chunked-tf32.

The share is what the 4 products that the arithmetic needs would take at the peak of the mode's own type over what was taken.
"""
import sys

import torch
import torch.nn.functional as F

from cuda_measure import expect_card, gemm_peak, report, report_too_large, timed
from infonce import chunked, dense


def main(rows="65536", width="1024", mode="dense"):
    kinds = {"dense": dense, "chunked": chunked}
    kind, _, low = mode.partition("-")
    if kind not in kinds or low not in ("", "tf32"):
        sys.exit(__doc__)
    expect_card("cuda_info_nce.py")
    torch.backends.cuda.matmul.allow_tf32 = low == "tf32"
    rows, width = int(rows), int(width)
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(rows, width, device="cuda"), dim=-1).requires_grad_() for _ in range(2))
    scale = torch.tensor(4.6, device="cuda").requires_grad_()
    work = f"info_nce {rows} x {width}"

    def step():
        image.grad = text.grad = scale.grad = None
        kinds[kind](image, text, scale).backward()

    peak = gemm_peak(torch.float32)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        best = timed(step, 3)
    except torch.cuda.OutOfMemoryError:
        return report_too_large(work, mode)
    extra = torch.cuda.max_memory_allocated() - before
    peak = max(peak, gemm_peak(torch.float32))
    one = 2 * rows * rows * width / 1e9
    report(work, mode, rows / best, "pairs/s", 4 * one / best / peak, seconds=best, gemms=best / (one / peak),
           peak_gflops=peak, extra_mb=extra / 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
