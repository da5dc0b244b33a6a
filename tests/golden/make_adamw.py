"""Twenty steps of torch.optim.AdamW on one matrix and one vector, gradients given, the rate changing every step.

requires: torch==2.15.0 safetensors==0.8.0

adamw/steps      plain; decoupled decay 0.2 on the matrix only
adamw/clipped    the same with clip_grad_norm_ to 1.0 before each step: some gradients are shorter, some longer.
                 torch scales by min(1, limit / (norm + 1e-6)).
Values after a step are those of torch's f32 optimiser (after/*) and of the same steps in float64 (exact/*).
"""
import math

import torch

from golden import random, relative, write

STEPS, DECAY, BETAS, EPS, LIMIT = 20, 0.2, (0.9, 0.98), 1e-6, 1.0


def rate(step):
    return 3e-2 * min(1.0, (step + 1) / 5) * (0.6 + 0.4 * math.cos(step))


def run(dtype, start, gradients, clip):
    leaves = {n: t.to(dtype).clone().requires_grad_() for n, t in start.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [leaves["matrix"]], "weight_decay": DECAY}, {"params": [leaves["vector"]], "weight_decay": 0.0}],
        lr=1.0, betas=BETAS, eps=EPS)
    after, norms = {n: [] for n in leaves}, []
    for step in range(STEPS):
        for name, leaf in leaves.items():
            leaf.grad = gradients[name][step].to(dtype, copy=True)  # clipping writes into it
        if clip:
            norms.append(torch.nn.utils.clip_grad_norm_(leaves.values(), LIMIT))
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(rate(step)).float().item()
        optimizer.step()
        for name, leaf in leaves.items():
            after[name].append(leaf.detach().clone())
    moments = {f"{kind}/{n}": optimizer.state[leaf][kind]
               for n, leaf in leaves.items() for kind in ("exp_avg", "exp_avg_sq")}
    return {n: torch.stack(t) for n, t in after.items()}, norms, moments


def main(name, clip):
    start = {"matrix": random(111, 5, 7), "vector": random(112, 7)}
    order = torch.randperm(STEPS, generator=torch.Generator().manual_seed(113))
    sizes = 10.0 ** torch.linspace(-2, 0.5, STEPS, dtype=torch.float64)[order]
    gradients = {"matrix": random(114, STEPS, 5, 7) * sizes[:, None, None], "vector": random(115, STEPS, 7) * sizes[:, None]}
    gradients = {n: g.float().double() for n, g in gradients.items()}
    gradients["vector"][3] = 0  # a parameter without a gradient still moves by its momentum
    after, norms, moments = run(torch.float32, start, gradients, clip)
    exact, _, _ = run(torch.float64, start, gradients, clip)
    worst = max(relative(after[n], exact[n]) for n in after)
    print(f"  f32 against float64: {worst:.1e}")
    tensors = {"input/rate": torch.tensor([rate(s) for s in range(STEPS)])}
    for n in start:
        tensors |= {f"input/{n}": start[n], f"input/gradient/{n}": gradients[n],
                    f"after/{n}": after[n], f"exact/{n}": exact[n]}
    tensors |= {f"last/{k}": v for k, v in moments.items()}
    if clip:
        tensors["output/norm"] = torch.stack(norms)
        assert (tensors["output/norm"] < LIMIT).any() and (tensors["output/norm"] > LIMIT).any()
    write(name, tensors, decay=DECAY, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, clip=LIMIT if clip else "none")


if __name__ == "__main__":
    main("adamw/steps", False)
    main("adamw/clipped", True)
