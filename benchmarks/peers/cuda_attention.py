"""F.scaled_dot_product_attention in bf16 on a card, forward and backward, at the shapes of benchmarks/cuda/attention.cu.

usage: cuda_attention.py [TOKENS] [WIDTH]      default: 65536 1024; TOKENS of all sequences together

q, k and v are views of one (sequences, tokens, 3, heads, head width) tensor, as a fused projection gives them. The
gradient's way back into one tensor is not counted.
"""
import sys

import torch
import torch.nn.functional as F

from cuda_measure import expect_card, gemm_peak, report, timed


def main(tokens="65536", width="1024"):
    expect_card("cuda_attention.py")
    tokens, width = int(tokens), int(width)
    torch.manual_seed(0)
    for head_width in (64, 128):
        for length in (50, 197, 257, 577):
            sequences, heads = max(1, tokens // length), width // head_width
            qkv = torch.randn(sequences, length, 3, heads, head_width, device="cuda", dtype=torch.bfloat16)
            q, k, v = (x.transpose(1, 2).detach().requires_grad_() for x in qkv.unbind(2))
            upstream = torch.randn(sequences, length, heads, head_width, device="cuda",
                                   dtype=torch.bfloat16).transpose(1, 2)

            def forward():
                with torch.no_grad():
                    F.scaled_dot_product_attention(q, k, v)

            y = F.scaled_dot_product_attention(q, k, v)

            def backward():
                torch.autograd.grad(y, (q, k, v), upstream, retain_graph=True)

            peak = gemm_peak(torch.bfloat16)
            one, two = timed(forward, 10, 4), timed(backward, 10, 4)
            peak = max(peak, gemm_peak(torch.bfloat16))
            rate = 14e-9 * sequences * heads * head_width * length * length / (one + two)
            report(f"attention, {length} tokens, heads of {head_width}", "SDPA", rate, "GFLOP/s", rate / peak,
                   sequences=sequences, forward_ms=1e3 * one, backward_ms=1e3 * two, peak_gflops=peak)


if __name__ == "__main__":
    main(*sys.argv[1:])
