"""Single operations in float64, stored as float64, with the gradients of all their inputs.

requires: torch==2.15.0 open_clip_torch==3.3.0 safetensors==0.8.0

Every file has input/*, upstream/output, output/*, gradient/*; names are in the README.
Attention's rows are (batch, tokens, heads, head_dim), which in memory is rows (batch * tokens, heads * head_dim).
"""
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU

from golden import random, write


def gelu():
    x = torch.cat([torch.linspace(-12, 12, 97, dtype=torch.float64), 1e-3 * random(81, 31)])
    upstream = random(82, x.numel())
    tensors = {"input/x": x, "upstream/output": upstream}
    for kind, function in (("erf", F.gelu), ("tanh", lambda v: F.gelu(v, approximate="tanh")), ("quick", QuickGELU())):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(upstream)
        tensors |= {f"output/{kind}": y, f"gradient/{kind}": leaf.grad}
    write("ops/gelu", tensors, dtype=torch.float64)


def layer_norm():
    x = random(83, 6, 19)
    x[1] += 50  # a mean far larger than the deviation
    x[2] *= 1e-3  # a variance below eps
    x = x.requires_grad_()
    weight, bias = (1 + 0.3 * random(84, 19)).requires_grad_(), random(85, 19).requires_grad_()
    upstream = random(86, 6, 19)
    y = F.layer_norm(x, (19,), weight, bias, eps=1e-5)
    y.backward(upstream)
    write("ops/layer_norm", {
        "input/x": x, "input/weight": weight, "input/bias": bias, "upstream/output": upstream, "output/y": y,
        "gradient/x": x.grad, "gradient/weight": weight.grad, "gradient/bias": bias.grad}, dtype=torch.float64, eps=1e-5)


def l2_normalize():
    x = random(87, 5, 20)
    x[1] *= 1e4
    x[2] *= 1e-4
    x = x.requires_grad_()
    upstream = random(88, 5, 20)
    y = F.normalize(x, dim=-1)
    y.backward(upstream)
    write("ops/l2_normalize", {"input/x": x, "upstream/output": upstream, "output/y": y, "gradient/x": x.grad},
          dtype=torch.float64, eps=1e-12)


def attend(q, k, v, causal, bias):
    """Attention over (batch, tokens, heads, head_dim) with scale head_dim**-0.5 and an additive (heads, S, S) bias."""
    length = q.shape[1]
    mask = None if bias is None else bias
    if causal:
        above = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1)
        mask = above if mask is None else mask + above
    rows = [t.transpose(1, 2) for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*rows, attn_mask=mask)
    return out.transpose(1, 2)


def attention():
    batch, length, heads, width = 3, 7, 2, 5
    given = {n: 1.5 * random(90 + i, batch, length, heads, width) for i, n in enumerate("qkv")}
    given["bias"], upstream = random(94, heads, length, length), random(95, batch, length, heads, width)
    tensors = {f"input/{n}": t for n, t in given.items()} | {"upstream/output": upstream}
    for kind, causal, biased in (("full", False, False), ("causal", True, False), ("bias", False, True),
                                 ("causal_bias", True, True)):
        leaf = {n: t.clone().requires_grad_() for n, t in given.items()}
        y = attend(leaf["q"], leaf["k"], leaf["v"], causal, leaf["bias"] if biased else None)
        y.backward(upstream)
        tensors[f"output/{kind}"] = y
        tensors |= {f"gradient/{kind}/{n}": t.grad for n, t in leaf.items() if t.grad is not None}
    write("ops/attention", tensors, dtype=torch.float64)


def attention_packed():
    """Runs of unequal length in one block of rows: each run attended alone, its bias the leading corner of the whole."""
    lengths, heads, width = (7, 1, 4), 2, 5
    rows = sum(lengths)
    given = {n: 1.5 * random(100 + i, rows, heads, width) for i, n in enumerate("qkv")}
    given["bias"], upstream = random(104, heads, 7, 7), random(105, rows, heads, width)
    offsets = torch.tensor([0, 7, 8, 12])
    tensors = {f"input/{n}": t for n, t in given.items()} | {"input/offsets": offsets, "upstream/output": upstream}
    for kind, causal, biased in (("full", False, False), ("causal", True, False), ("bias", False, True),
                                 ("causal_bias", True, True)):
        leaf = {n: t.clone().requires_grad_() for n, t in given.items()}
        runs = []
        for begin, length in zip(offsets.tolist(), lengths):
            q, k, v = (leaf[n][None, begin:begin + length] for n in "qkv")
            corner = leaf["bias"][:, :length, :length] if biased else None
            runs.append(attend(q, k, v, causal, corner)[0])
        y = torch.cat(runs)
        y.backward(upstream)
        tensors[f"output/{kind}"] = y
        tensors |= {f"gradient/{kind}/{n}": t.grad for n, t in leaf.items() if t.grad is not None}
    write("ops/attention_packed", tensors, dtype=torch.float64)


if __name__ == "__main__":
    gelu()
    layer_norm()
    l2_normalize()
    attention()
    attention_packed()
