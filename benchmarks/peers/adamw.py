"""One step of torch's AdamW over 25 million f32 parameters in 25 tensors.

usage: adamw.py [MODE]      default: fused; else foreach or loop

The share is of the memory's speed: a step reads four values a parameter and writes three. What it is measured against
is an in-place addition, because a plain copy moves lines that are not counted.
"""
import sys

import torch

from measure import report, timed

COUNT, TENSORS = 25_000_000, 25


def bandwidth():
    """GB/s of an in-place addition over tensors of the same sizes: two values read and one written."""
    pairs = [(torch.ones(COUNT // TENSORS), torch.ones(COUNT // TENSORS)) for _ in range(TENSORS)]

    def add():
        for target, source in pairs:
            target.add_(source)

    best, _ = timed(add, 5, 2)
    return 3 * 4 * COUNT / best / 1e9


def main(mode="fused"):
    modes = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}
    if mode not in modes:
        sys.exit(f"adamw.py: mode must be one of {', '.join(modes)}, not {mode}")
    parameters = [torch.randn(COUNT // TENSORS, requires_grad=True) for _ in range(TENSORS)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    before = bandwidth()
    best, _ = timed(torch.optim.AdamW(parameters, **modes[mode]).step, 5, 2)
    memory = max(before, bandwidth())
    report("AdamW step", mode, best / COUNT * 1e9, "ns/parameter", 7 * 4 * COUNT / best / 1e9 / memory,
           memory_gb_per_s=memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
