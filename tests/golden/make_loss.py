"""Symmetric InfoNCE on given embeddings, in float64, stored as float64.

requires: torch==2.15.0 open_clip_torch==3.3.0 safetensors==0.8.0

loss/random    37 unrelated pairs of width 20, scale exp(2.5)
loss/sharp     9 nearly aligned pairs of width 5, scale 100: the largest scale that training allows
"""
import math

import torch
from open_clip import ClipLoss

from golden import random, write


def run(name, image, text, log_scale):
    image = torch.nn.functional.normalize(image, dim=-1).requires_grad_()
    text = torch.nn.functional.normalize(text, dim=-1).requires_grad_()
    log_scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    loss = ClipLoss()(image, text, log_scale.exp())
    loss.backward()

    logits = log_scale.exp() * image @ text.T
    by_hand = (logits.logsumexp(0) + logits.logsumexp(1) - 2 * logits.diagonal()).mean() / 2
    assert torch.allclose(by_hand, loss, rtol=1e-13)
    write(name, {"input/image": image, "input/text": text, "input/log_scale": log_scale, "output/loss": loss,
                 "gradient/image": image.grad, "gradient/text": text.grad, "gradient/log_scale": log_scale.grad},
          dtype=torch.float64)


if __name__ == "__main__":
    run("loss/random", random(71, 37, 20), random(72, 37, 20), 2.5)
    aligned = random(73, 9, 5)
    run("loss/sharp", aligned, aligned + 0.3 * random(74, 9, 5), math.log(100.0))
