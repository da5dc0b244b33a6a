"""OpenCLIP's train step of a named model with full captions of 77 tokens.

usage: openclip_step.py [MODEL] [MODE] [BATCH]      default: ViT-B-32 autocast 32
"""
import sys

import open_clip
import torch

from train_step import MODES, measure_step


def main(name="ViT-B-32", mode="autocast", batch="32"):
    if mode not in MODES:
        sys.exit(f"openclip_step.py: mode must be one of {', '.join(MODES)}, not {mode}")
    torch.manual_seed(0)
    model = open_clip.create_model(name, precision="fp32")
    batch = int(batch)
    ids = torch.randint(1, 49000, (batch, 77))
    ids[:, -1] = 49407  # the end token in the last place: no caption is shorter
    measure_step(f"{name} + text, 77 tokens", mode, model, torch.randn(batch, 3, 224, 224), ids, 1e-4, 4, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
