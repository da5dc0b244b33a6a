"""Symmetric InfoNCE, forward and backward, on given embeddings of B pairs and width D.

usage: infonce.py [B] [D] [MODE]      default: 16384 512 dense
MODE: dense, chunked (rows in blocks, each recomputed in the backward), dense-bf16, chunked-bf16 (autocast).

The rate counts f32 products of B x B x D at torch's f32 peak (f32_peak_gflops), so less is better. The arithmetic alone
is 4 products of the mode's own type; the share is what those would take at that type's peak over what was taken.
"""
import sys

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from measure import gemm_peak, most_memory, report, timed

BLOCK = 2048


def dense(image, text, scale):
    logits = scale.exp() * image @ text.T
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def block_loss(rows, others, own, scale):
    return F.cross_entropy(scale.exp() * rows @ others.T, own, reduction="sum")


def chunked(image, text, scale):
    own, total = torch.arange(len(image), device=image.device), 0.0
    for begin in range(0, len(image), BLOCK):
        part = slice(begin, begin + BLOCK)
        for rows, others in ((image, text), (text, image)):
            total = total + checkpoint(block_loss, rows[part], others, own[part], scale, use_reentrant=False)
    return total / (2 * len(image))


def main(rows="16384", width="512", mode="dense"):
    kinds = {"dense": dense, "chunked": chunked}
    kind, _, low = mode.partition("-")
    if kind not in kinds or low not in ("", "bf16"):
        sys.exit(f"infonce.py: mode must be dense, chunked, dense-bf16 or chunked-bf16, not {mode}")
    rows, width = int(rows), int(width)
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(rows, width), dim=-1).requires_grad_() for _ in range(2))
    scale = torch.tensor(4.6).requires_grad_()
    last = []

    def step():
        image.grad = text.grad = scale.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(low)):
            loss = kinds[kind](image, text, scale)
        loss.backward()
        last[:] = [loss.item()]

    before = most_memory()
    own_type = torch.bfloat16 if low else torch.float32
    peak, own_peak = gemm_peak(torch.float32), gemm_peak(own_type)
    best, _ = timed(step, 2, 1)
    peak, own_peak = max(peak, gemm_peak(torch.float32)), max(own_peak, gemm_peak(own_type))
    one = 2 * rows * rows * width / 1e9
    report(f"InfoNCE {rows} x {width}", mode, best / (one / peak), "B*B*D f32 GEMMs", 4 * one / best / own_peak,
           seconds=best, peak_gflops=own_peak, f32_peak_gflops=peak, memory_gb=most_memory() - before,
           loss=last[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
