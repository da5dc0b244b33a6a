"""Train step of a small model: images 32 x 32 in patches of 4, width 192, 6 layers; text width 192, 4 layers, 16 tokens.

usage: small_step.py [MODE] [BATCH]      default: autocast 128
"""
import sys

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from train_step import MODES, measure_step


def main(mode="autocast", batch="128"):
    if mode not in MODES:
        sys.exit(f"small_step.py: mode must be one of {', '.join(MODES)}, not {mode}")
    torch.manual_seed(0)
    model = CLIP(192, CLIPVisionCfg(layers=6, width=192, head_width=64, patch_size=4, image_size=32),
                 CLIPTextCfg(context_length=16, vocab_size=1024, width=192, heads=3, layers=4))
    batch = int(batch)
    ids = torch.randint(1, 1000, (batch, 16))
    ids[:, -1] = 1023
    measure_step("small two towers, 16 tokens", mode, model, torch.randn(batch, 3, 32, 32), ids, 1e-3, 6, 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
