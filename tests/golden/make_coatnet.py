"""CoAtNets of timm: outputs, all gradients in brief, and BatchNorm's running values after a step.

requires: torch==2.15.0 timm==1.0.31 safetensors==0.8.0 numpy==2.4.6

coatnet/zero_train     timm's coatnet_0 for images of 96, batch of 2, in train mode (statistics of the batch)
coatnet/zero_eval      the same weights in eval mode (random running values), outputs and gradients
coatnet/paper          a small one with the paper's choices where timm has others: LayerNorm in stem and MBConv, the
                       stride in the first 1 x 1 convolution, maxima instead of means; its third stage has an MBConv
                       and two attention blocks, heads are 16 wide, and the images have 32 rows and 64 columns
coatnet/tables         tables of relative positions of 3 heads brought to other grids, bilinear; keys are FROM_TO, each
                       the rows and columns of a grid

25 M weights do not fit a small file, so values are a formula, which tests/towers/coatnet_test.cpp repeats. Element i
of the tensor NAME, in timm's layout, is centre + spread * (2 u(NAME, i) - 1), rounded to f32, where

    u(NAME, i) = (mix(fnv1a(NAME), i) >> 40) / 2^24      (mix: yoke/core/random.hpp)

and (centre, spread) is, by the name's end: running_mean (0, 0.3); running_var (1, 0.3); bias_table (0, 0.5); bias
(0, 0.3); weight of one axis (1, 0.3); any other weight (0, sqrt(3 / fan-in)); input/… and upstream/… (0, sqrt(3)).
The images are input/images; the gradients are those of the sum of logits times upstream/logits. `features` are the
pooled and normed ones, before the head's tanh.

In place of each gradient the file has a row of `gradients`: its norm; its largest absolute value; the sum of its
elements, each with the sign + where u(sign/NAME, i) < 1/2, else -; and SAMPLES elements, the k-th at the place
floor(u(place/NAME, k) * size). The names of the rows are in the metadata, in the order of the rows.
"""
import numpy as np
import timm
import torch
from timm.models import maxxvit

from golden import write

SAMPLES = 12
MASK = (1 << 64) - 1


def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def u(name, count):
    with np.errstate(over="ignore"):
        i = np.arange(count, dtype=np.uint64)
        a = np.uint64(fnv1a(name)) + np.uint64(0x9E3779B97F4A7C15) * (i + np.uint64(1))
        a = (a ^ (a >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        a = (a ^ (a >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((a ^ (a >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def values(name, shape):
    if name.startswith(("input/", "upstream/")):
        centre, spread = 0.0, 3**0.5
    elif name.endswith("running_mean"):
        centre, spread = 0.0, 0.3
    elif name.endswith("running_var"):
        centre, spread = 1.0, 0.3
    elif name.endswith("bias_table"):
        centre, spread = 0.0, 0.5
    elif name.endswith("bias"):
        centre, spread = 0.0, 0.3
    elif len(shape) == 1:
        centre, spread = 1.0, 0.3
    else:
        centre, spread = 0.0, (3.0 / np.prod(shape[1:])) ** 0.5
    flat = centre + spread * (2 * u(name, int(np.prod(shape))) - 1)
    return torch.from_numpy(flat.astype(np.float32).reshape(shape)).double()


def fill(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(values(name, tuple(tensor.shape)))
    return model


def brief(name, gradient):
    flat = gradient.reshape(-1).numpy()
    signs = np.where(u("sign/" + name, flat.size) < 0.5, 1.0, -1.0)
    places = (u("place/" + name, SAMPLES) * flat.size).astype(np.int64)
    return np.concatenate([[np.linalg.norm(flat), np.abs(flat).max(), flat @ signs], flat[places]])


def run(file, model, shape, train):
    model = fill(model.double()).train(train)
    images, upstream = values("input/images", shape), values("upstream/logits", (shape[0], model.num_classes))
    head = model.head
    features = head.flatten(head.norm(head.global_pool(model.forward_features(images))))
    logits = head.fc(head.pre_logits(features))
    (logits * upstream).sum().backward()
    rows = {name: brief(name, p.grad) for name, p in model.named_parameters()}
    tensors = {"features": features, "logits": logits, "gradients": np.stack(list(rows.values()))}
    if train:
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensors[name] = buffer
    write(file, tensors, gradients=list(rows))


def paper():
    conv = maxxvit.MaxxVitConvCfg(stride_mode="1x1", pool_type="max2", norm_layer="layernorm2d")
    attention = maxxvit.MaxxVitTransformerCfg(dim_head=16, pool_type="max2")
    settings = maxxvit.MaxxVitCfg(
        embed_dim=(16, 32, 48, 64), depths=(1, 2, 3, 1), block_type=("C", "C", ("C", "T", "T"), "T"), stem_width=16,
        stem_bias=True, conv_cfg=conv, transformer_cfg=attention, head_hidden_size=64)
    return maxxvit.MaxxVit(settings, img_size=(32, 64), num_classes=10)


def tables():
    def resized(old, new):
        sizes = [tuple(2 * n - 1 for n in grid) for grid in (old, new)]
        table = values("input/table", (1, 3, *sizes[0]))
        return torch.nn.functional.interpolate(table, sizes[1], mode="bilinear", align_corners=False)[0]

    grids = (((3, 3), (5, 5)), ((4, 2), (2, 7)), ((6, 5), (3, 2)))
    write("coatnet/tables", {"x".join(map(str, a)) + "_" + "x".join(map(str, b)): resized(a, b) for a, b in grids})


if __name__ == "__main__":
    torch.set_num_threads(2)
    for mode in ("train", "eval"):
        run(f"coatnet/zero_{mode}", timm.create_model("coatnet_0_224", img_size=96), (2, 3, 96, 96), mode == "train")
    run("coatnet/paper", paper(), (3, 3, 32, 64), True)
    tables()
