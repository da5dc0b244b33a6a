"""The sigmoid loss on given embeddings, in float64, stored as float64.

requires: torch==2.15.0 open_clip_torch==3.3.0 safetensors==0.8.0

loss/sigmoid_start    37 unrelated pairs of width 20, scale 10 and bias -10: where training begins
loss/sigmoid_trained  9 nearly aligned pairs of width 5, scale 117 and bias -13: about where it ended for the paper's
"""
import math

import torch
from open_clip.loss import SigLipLoss

from golden import random, write


def run(name, image, text, log_scale, bias):
    image = torch.nn.functional.normalize(image, dim=-1).requires_grad_()
    text = torch.nn.functional.normalize(text, dim=-1).requires_grad_()
    log_scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    loss = SigLipLoss()(image, text, log_scale.exp(), bias)
    loss.backward()

    logits = log_scale.exp() * image @ text.T + bias
    sign = 2 * torch.eye(len(image), dtype=torch.float64) - 1
    by_hand = torch.nn.functional.softplus(-sign * logits).sum() / len(image)
    assert torch.allclose(by_hand, loss, rtol=1e-13)
    write(name, {"input/image": image, "input/text": text, "input/log_scale": log_scale, "input/bias": bias,
                 "output/loss": loss, "gradient/image": image.grad, "gradient/text": text.grad,
                 "gradient/log_scale": log_scale.grad, "gradient/bias": bias.grad},
          dtype=torch.float64)


if __name__ == "__main__":
    run("loss/sigmoid_start", random(75, 37, 20), random(76, 37, 20), math.log(10.0), -10.0)
    aligned = random(77, 9, 5)
    run("loss/sigmoid_trained", aligned, aligned + 0.3 * random(78, 9, 5), math.log(117.0), -13.0)
