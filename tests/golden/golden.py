"""What the golden scripts share: random parameters away from their initial values, and files that are re-read.

requires: torch==2.15.0 numpy==2.4.6 safetensors==0.8.0
"""
import json
import pathlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent
LARGEST_FILE = 400_000


def perturb(model, seed):
    """Draws every parameter anew so that none is 0, 1 or tied to a neighbour, rounded to f32 values.

    Matrices keep the variance of their fan-in, so that attention and GELU stay in their curved range.
    The model leaves in float64: the outputs then carry no rounding of the reference's own.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if name.endswith("logit_scale"):
                noise = torch.tensor(1.7).expand_as(parameter)
            elif "embedding" in name or "pos_embed" in name:
                noise = 0.6 * noise
            elif parameter.dim() == 1 and name.endswith("weight"):
                noise = 1.1 + 0.3 * noise
            elif parameter.dim() == 1:
                noise = 0.3 * noise
            else:
                into_rows = name.endswith(("proj", "text_projection"))  # stored (in, out)
                fan_in = parameter.shape[0] if into_rows else parameter[0].numel()
                noise = 1.2 * fan_in**-0.5 * noise
            parameter.copy_(noise)
    return model.double().eval()


def random(seed, *shape):
    """Standard normal values that f32 holds exactly, as float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def write(name, tensors, dtype=torch.float32, **config):
    """Writes tests/golden/<name>.safetensors and reads it back, comparing every value.

    Floating tensors are stored as `dtype`, integers as int32. `config` becomes the metadata's one entry, as JSON:
    the writer orders several entries differently from run to run.
    """
    path = ROOT / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    stored = {}
    for key, value in tensors.items():
        value = torch.as_tensor(value).detach()
        kind = dtype if value.is_floating_point() else torch.int32
        stored[key] = value.to(kind).clone(memory_format=torch.contiguous_format)
        assert torch.isfinite(stored[key]).all(), key
    save_file(stored, path, metadata={"config": json.dumps(config)})
    with safe_open(path, framework="pt") as back:
        assert sorted(back.keys()) == sorted(stored)
        for key, value in stored.items():
            again = back.get_tensor(key)
            assert again.dtype == value.dtype and torch.equal(again, value), key
    size = path.stat().st_size
    assert size <= LARGEST_FILE, f"{path} has {size} bytes"
    print(f"{path.relative_to(ROOT)}: {size} bytes, {len(stored)} tensors")


def relative(got, want):
    """The largest difference over the largest reference value: what the README's tolerances mean."""
    return ((got.double() - want).abs().max() / want.abs().max().clamp_min(1e-300)).item()
