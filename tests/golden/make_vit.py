"""Image towers that OpenCLIP's CLIP class does not reach, all keys renamed to OpenCLIP's image tower.

requires: torch==2.15.0 open_clip_torch==3.3.0 timm==1.0.31 safetensors==0.8.0

vit/mean_no_token        timm's ViT without a class token: positions (patches, width), norm before the blocks,
                         norm after them, mean over all tokens, projection; eps 1e-5, erf GELU
vit/mean_then_norm       the same, but the mean comes first and ln_post is applied to it
vit/wide_token           OpenCLIP, class token, an image of 18 rows and 24 columns (3 x 4 patches),
                         one layer of three heads, no ln_pre
"""
import functools

import torch
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from golden import perturb, random, write

RENAMED = (("patch_embed.proj.", "conv1."), ("pos_embed", "positional_embedding"), ("norm_pre.", "ln_pre."),
           ("blocks.", "transformer.resblocks."), (".norm1.", ".ln_1."), (".norm2.", ".ln_2."),
           (".attn.qkv.", ".attn.in_proj_"), (".attn.proj.", ".attn.out_proj."), (".mlp.fc1.", ".mlp.c_fc."),
           (".mlp.fc2.", ".mlp.c_proj."), ("fc_norm.", "ln_post."))


def open_clip_name(name):
    for old, new in RENAMED:
        name = name.replace(old, new)
    return "visual." + ("ln_post." + name[5:] if name.startswith("norm.") else name)


def run(name, model, settings, images, seed, rename):
    upstream = random(seed, images.shape[0], 20)
    features = model(images)
    (features * upstream).sum().backward()
    tensors = {"input/images": images, "upstream/image_features": upstream, "output/image_features": features,
               "output/image_features_normalized": torch.nn.functional.normalize(features, dim=-1)}
    for key, parameter in model.named_parameters():
        value, gradient = parameter, parameter.grad
        if key == "head.weight":  # (out, in); OpenCLIP's projection is (in, out)
            key, value, gradient = "proj", value.T, gradient.T
        if key == "pos_embed":
            value, gradient = value[0], gradient[0]
        key = rename(key)
        tensors |= {f"weight/{key}": value, f"gradient/{key}": gradient}
    write(name, tensors, **settings)


def timm_file(name, norm_after_pool, seed):
    settings = {"image_size": 24, "patch_size": 6, "width": 24, "heads": 2, "layers": 2, "embed_dim": 20,
                "class_token": False, "pool": "mean", "norm_after_pool": norm_after_pool}
    model = TimmVisionTransformer(
        img_size=24, patch_size=6, num_classes=20, global_pool="avg", embed_dim=24, depth=2, num_heads=2,
        class_token=False, pre_norm=True, fc_norm=norm_after_pool,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5))
    model.head = torch.nn.Linear(24, 20, bias=False)
    model = perturb(model, seed)
    assert model.pos_embed.shape[1] == 16
    run(name, model, settings, random(seed + 1, 3, 3, 24, 24), seed + 2, open_clip_name)


def wide_file(name, seed):
    settings = {"image_size": [18, 24], "patch_size": 6, "width": 24, "heads": 3, "layers": 1, "embed_dim": 20,
                "class_token": True, "pool": "token", "ln_pre": False}
    model = VisionTransformer(image_size=(18, 24), patch_size=6, width=24, layers=1, heads=3, mlp_ratio=4.0,
                              no_ln_pre=True, output_dim=20)
    run(name, perturb(model, seed), settings, random(seed + 1, 2, 3, 18, 24), seed + 2, "visual.{}".format)


if __name__ == "__main__":
    timm_file("vit/mean_no_token", False, 31)
    timm_file("vit/mean_then_norm", True, 41)
    wide_file("vit/wide_token", 51)
