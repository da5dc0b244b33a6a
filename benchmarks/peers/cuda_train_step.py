"""OpenCLIP's train step on a card: bf16 autocast, SDPA, fused AdamW, clipping by norm, captions of 77 tokens.

usage: cuda_train_step.py [MODEL] [MODE] [BATCH] [REMAT]      default: ViT-B-32 compile 1024 no
MODE: autocast, or compile (the same, through torch.compile). REMAT: yes for OpenCLIP's gradient checkpointing.

A batch that does not fit is halved until it does. Pictures and captions lie in the card's memory.
"""
import gc
import sys

import open_clip
import torch

from cuda_measure import expect_card, gemm_peak, memory_gb, report, report_too_large, timed
from measure import gflop

TOKENS, COUNTED = 77, 8


def inputs(batch, side):
    images = torch.randn(batch, 3, side, side, device="cuda")
    ids = torch.randint(1, 49000, (batch, TOKENS), device="cuda")
    ids[:, -1] = 49407  # the end token in the last place: no caption is shorter
    return images, ids


def step_of(name, remat):
    """A model, its side of a picture in pixels, and step(forward, images, ids)."""
    model = open_clip.create_model(name, precision="fp32", device="cuda")
    model.train()
    model.set_grad_checkpointing(remat)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=True)
    contrastive = open_clip.ClipLoss()

    def step(forward, images, ids):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = contrastive(*forward(images, ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    side = model.visual.image_size
    return model, side[0] if isinstance(side, tuple) else side, step


def gflop_per_pair(name):
    """Of the towers, forward and backward, nothing run twice."""
    model, side, step = step_of(name, False)
    images, ids = inputs(COUNTED, side)
    return gflop(lambda: step(model, images, ids)) / COUNTED


def best_seconds(name, mode, batch, remat):
    model, side, step = step_of(name, remat)
    images, ids = inputs(batch, side)
    forward = torch.compile(model) if mode == "compile" else model
    return timed(lambda: step(forward, images, ids), 3)


def clean():
    gc.collect()
    torch._dynamo.reset()
    torch.cuda.empty_cache()


def main(name="ViT-B-32", mode="compile", batch="1024", remat="no"):
    if mode not in ("autocast", "compile") or remat not in ("yes", "no"):
        sys.exit(__doc__)
    expect_card("cuda_train_step.py")
    torch.manual_seed(0)
    work = f"{name}, {TOKENS} tokens" + (", rematerialised" if remat == "yes" else "")
    tower_gflop = gflop_per_pair(name)
    clean()
    peak, batch, best = gemm_peak(torch.bfloat16), int(batch), None
    while batch > 0 and best is None:
        try:
            best = best_seconds(name, mode, batch, remat == "yes")
        except torch.cuda.OutOfMemoryError:
            batch //= 2
        clean()
    if best is None:
        return report_too_large(work, mode)
    peak = max(peak, gemm_peak(torch.bfloat16))
    rate = tower_gflop * batch / best
    report(work, mode, batch / best, "pairs/s", rate / peak, batch=batch, gflops=rate, peak_gflops=peak,
           gflop_per_pair=tower_gflop, memory_gb=memory_gb())


if __name__ == "__main__":
    main(*sys.argv[1:])
