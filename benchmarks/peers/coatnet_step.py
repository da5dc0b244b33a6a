"""Train step of timm's coatnet_0 at 224 pixels: the tower, a projection to 512 numbers, a scalar loss, AdamW.

usage: coatnet_step.py [MODE] [BATCH]      default: autocast 16; other modes: f32, compile
"""
import sys

import timm
import torch

from measure import beside_peak, most_memory, report

MODES = ("f32", "autocast", "compile")
GFLOP_AN_IMAGE = 27.4  # forward and backward, as Yoke counts its own with the stride in the depthwise convolutions


def main(mode="autocast", batch="16"):
    if mode not in MODES:
        sys.exit(f"coatnet_step.py: mode must be one of {', '.join(MODES)}, not {mode}")
    torch.manual_seed(0)
    images = int(batch)
    model = timm.create_model("coatnet_0_224", num_classes=512).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pictures = torch.randn(images, 3, 224, 224).to(memory_format=torch.channels_last)
    target = torch.randn(images, 512)
    forward = torch.compile(model) if mode == "compile" else model

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode != "f32"):
            features = forward(pictures)
        (features.float() * target).sum().backward()
        optimizer.step()

    dtype = torch.float32 if mode == "f32" else torch.bfloat16
    best, median, peak = beside_peak(dtype, step, 3, 1)
    report("timm coatnet_0 at 224", mode, images / best, "images/s", GFLOP_AN_IMAGE * images / best / peak, batch=images,
           median_rate=images / median, peak_gflops=peak, memory_gb=most_memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
