"""One step of torch's fused AdamW on a card over f32 parameters in 100 tensors.

usage: cuda_adamw.py [PARAMETERS]      default: 100000000

The share is of the speed of a copy in the same run; a step reads four values a parameter and writes three. That it neither
zeroes the gradient nor refreshes a bf16 copy, which Yoke's does, is in its favour.
"""
import sys

import torch

from cuda_measure import expect_card, report, timed

TENSORS = 100


def main(count="100000000"):
    expect_card("cuda_adamw.py")
    each = int(count) // TENSORS
    parameters = [torch.randn(each, device="cuda").requires_grad_() for _ in range(TENSORS)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    source, target = (torch.ones(each * TENSORS, device="cuda") for _ in range(2))
    copy = 2 * 4 * each * TENSORS / timed(lambda: target.copy_(source), 10, 4) / 1e9
    best = timed(torch.optim.AdamW(parameters, fused=True).step, 10, 4)
    rate = each * TENSORS / best / 1e9
    report("AdamW", "fused", rate, "10^9 elements/s", 7 * 4 * rate / copy, share_of="copy", copy_gb_per_s=copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
