"""F.scaled_dot_product_attention, forward and backward, at the shapes of benchmarks/attention.cpp.

usage: attention.py [bf16|f32]

q, k and v are views of one (batch, tokens, 3, heads, head width) tensor, as a fused projection gives them. Captions are
padded to 77 tokens; there is no packed form. The gradient's way back into one tensor is not counted.
"""
import sys

import torch
import torch.nn.functional as F

from measure import gemm_peak, report, timed

SHAPES = (("ViT-B/32", 64, 50, 12, 64, False), ("text, padded to 77", 64, 77, 8, 64, True),
          ("text, 14 tokens each", 256, 14, 8, 64, True), ("text, 256 padded to 77", 256, 77, 8, 64, True),
          ("small ViT, 64 tokens", 128, 64, 4, 32, False), ("small ViT, 65 tokens", 128, 65, 3, 64, False),
          ("ViT-B/16", 16, 197, 12, 64, False), ("ViT-L/14", 8, 257, 16, 64, False),
          ("4096 tokens", 1, 4096, 4, 64, False))


def main(mode="bf16"):
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[mode]
    torch.manual_seed(0)
    for name, batch, tokens, heads, width, causal in SHAPES:
        qkv = torch.randn(batch, tokens, 3, heads, width).to(dtype)
        q, k, v = (x.transpose(1, 2).detach().requires_grad_() for x in qkv.unbind(2))
        upstream = torch.randn(batch, tokens, heads, width).to(dtype).transpose(1, 2)

        def forward():
            with torch.no_grad():
                F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        def both():
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            torch.autograd.grad(y, (q, k, v), upstream)

        peak = gemm_peak(dtype)
        one, _ = timed(forward, 15, 2)
        two, _ = timed(both, 15, 2)
        pairs = tokens * (tokens + 1) / 2 if causal else tokens * tokens
        rate = 14e-9 * batch * heads * width * pairs / two
        report(f"attention, {name}", mode, rate, "GFLOP/s", rate / max(peak, gemm_peak(dtype)), forward_ms=1e3 * one,
               backward_ms=1e3 * (two - one))


if __name__ == "__main__":
    main(*sys.argv[1:])
