"""Fifty steps of AdafactorW, written from the formulas of the papers, on matrices, a vector and a table of three axes.

requires: numpy==2.4.6 safetensors==0.8.0

adafactor/steps   second moment: arXiv 1804.04235, algorithm 4, with its sums over rows and columns and its growing
                  beta2 (here capped), without its clipping and relative steps; a first moment of the scaled gradients;
                  decay as in arXiv 1711.05101. A second moment for each element where the parameter is not factored.
Values after the steps 1, 2, 10 and 50 with all numbers in float64 (exact/*), and with the first moment kept in bf16
(bf16/*), by which the parameter moves before it is rounded. Initial values and gradients are a formula that the test
repeats (numbers, below); all are multiples of a power of two that f32 holds.
"""
import json
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

SHAPES = {"matrix": (33, 40), "table": (32, 33), "narrow": (31, 5), "axes": (2, 3, 5), "vector": (19,)}
FACTORED, DECAYED = ("matrix", "table"), ("matrix", "narrow", "axes")
STEPS, KEPT = 50, (1, 2, 10, 50)
BETA1, CAP, EXPONENT, EPSILON, DECAY = 0.9, 0.95, 0.8, 1e-30, 0.1


def numbers(step, which, count):
    """In [-1, 1), in steps of 2^-15: step 0 gives the initial values, step t its gradients before gradient()."""
    x = (np.arange(count, dtype=np.uint64) + 1000003 * step + 77777777 * which) % 2**32
    x = (x ^ (x >> 16)) * 0x45D9F3B % 2**32
    x = x ^ (x >> 16)
    return ((x & 0xFFFF).astype(np.float64) - 32768) / 32768


def gradient(step, name, which):
    """Sizes differ by step, and within a matrix by row and column; the vector has no gradient in step 7."""
    g = numbers(step, which, int(np.prod(SHAPES[name]))).reshape(SHAPES[name]) * 2.0 ** (step % 4 - 2)
    if len(SHAPES[name]) == 2:
        g = g * 2.0 ** -(np.arange(g.shape[0]) % 5)[:, None] * 2.0 ** -(np.arange(g.shape[1]) % 3)[None, :]
    return g * 0 if name == "vector" and step == 7 else g


def rate(step):
    return (1 + step % 3) / 64


def gradient_scale(step):
    return 0.75 if step % 2 else 1.0


def to_bf16(x):
    """Nearest, ties to even, by way of f32."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def run(round_moment):
    after = {n: [] for n in SHAPES}
    last = {}
    for which, (name, shape) in enumerate(SHAPES.items()):
        x = numbers(0, which, int(np.prod(shape))).reshape(shape)
        m = np.zeros(shape)
        if name in FACTORED:
            rows, columns = np.zeros(shape[0]), np.zeros(shape[1])
        else:
            v = np.zeros(shape)
        for t in range(1, STEPS + 1):
            g = gradient(t, name, which) * gradient_scale(t)
            beta2 = min(CAP, 1 - t**-EXPONENT)
            squares = g**2 + EPSILON
            if name in FACTORED:
                rows = beta2 * rows + (1 - beta2) * squares.sum(1)
                columns = beta2 * columns + (1 - beta2) * squares.sum(0)
                estimate = np.outer(rows, columns) / rows.sum()
            else:
                estimate = v = beta2 * v + (1 - beta2) * squares
            m = BETA1 * m + (1 - BETA1) * g / np.sqrt(estimate)
            x = x - rate(t) * (m + (DECAY * x if name in DECAYED else 0))
            m = round_moment(m)
            if t in KEPT:
                after[name].append(x)
        last[name] = m
    return {n: np.stack(v) for n, v in after.items()}, last


def main():
    exact, last = run(lambda m: m)
    near, _ = run(to_bf16)
    difference = max(np.abs(exact[n] - near[n]).max() for n in SHAPES)
    print(f"  a first moment in bf16 moves parameters by up to {difference:.1e}")
    tensors = {}
    for n in SHAPES:
        tensors |= {f"exact/{n}": exact[n], f"exact_moment/{n}": last[n], f"bf16/{n}": near[n].astype(np.float32)}
    path = pathlib.Path(__file__).resolve().parent / "adafactor" / "steps.safetensors"
    path.parent.mkdir(exist_ok=True)
    config = dict(beta1=BETA1, beta2_cap=CAP, decay_exponent=EXPONENT, epsilon=EPSILON, weight_decay=DECAY, kept=KEPT)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    with safe_open(path, framework="np") as back:
        assert sorted(back.keys()) == sorted(tensors)
        for key, value in tensors.items():
            assert np.isfinite(value).all() and np.array_equal(back.get_tensor(key), value), key
    print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
