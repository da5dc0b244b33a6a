"""Learning rates of every step, from OpenCLIP's training schedules, float64.

requires: torch==2.15.0 open_clip_torch==3.3.0 safetensors==0.8.0

Keys are kind/warm-up/steps with base rate 2e-3; the values are those of steps 0 .. steps - 1. OpenCLIP warms up by
base * (step + 1) / warmup for step < warmup. 'linear' is its constant schedule whose cooldown, of power 1 and to 0,
begins where the warm-up ends: base * (1 - (step - warmup) / (steps - warmup)).
"""
import torch
from open_clip_train.scheduler import const_lr, const_lr_cooldown, cosine_lr

from golden import write

BASE = 2e-3


class groups:
    """What the schedules write their rate into."""

    param_groups = [{"lr": 0.0}]


def main():
    tensors = {"input/base": torch.tensor(BASE, dtype=torch.float64)}
    for warmup, steps in ((10, 50), (0, 20), (1, 7), (12, 12)):
        kinds = {"constant": const_lr(groups(), BASE, warmup, steps), "cosine": cosine_lr(groups(), BASE, warmup, steps),
                 "linear": const_lr_cooldown(groups(), BASE, warmup, steps, steps - warmup)}
        for kind, rate in kinds.items():
            tensors[f"{kind}/{warmup}/{steps}"] = torch.tensor([rate(step) for step in range(steps)], dtype=torch.float64)
    write("schedule/rates", tensors, dtype=torch.float64)


if __name__ == "__main__":
    main()
