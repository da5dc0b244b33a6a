"""OpenCLIP's whole model: both towers' features and every gradient, and the contrastive loss on top.

requires: torch==2.15.0 open_clip_torch==3.3.0 safetensors==0.8.0

clip/token_gelu       class token pooled after ln_post, erf GELU
clip/average_quick    pool_type 'avg', QuickGELU. OpenCLIP's 'avg' keeps the class token through the whole
                      tower, applies ln_post to every token and then averages the patch tokens alone
                      (tokens 1 ..); no OpenCLIP option drops the class token.
clip/contrastive      symmetric InfoNCE of token_gelu's model on its inputs; parameters are in that file.

Text is causal and pooled at the end token (49, the highest id); captions are padded with 0.
"""
import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from golden import perturb, random, relative, write

BATCH, CONTEXT, LENGTHS = 3, 12, (12, 2, 7)
START, END = 48, 49


def config(pool, quick):
    return {
        "embed_dim": 20,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 24, "patch_size": 6, "width": 24, "head_width": 12, "layers": 2,
                       "pool_type": pool},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 50, "width": 28, "heads": 2, "layers": 2},
    }


def build(settings, seed):
    return perturb(CLIP(settings["embed_dim"], CLIPVisionCfg(**settings["vision_cfg"]),
                        CLIPTextCfg(**settings["text_cfg"]), settings["quick_gelu"]), seed)


def captions(seed):
    """Ids (BATCH, CONTEXT): start, words that repeat within and across captions, end, zeros."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.zeros(BATCH, CONTEXT, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, 1:length - 1] = torch.randint(1, 9, (length - 2,), generator=draw)
        ids[row, 0], ids[row, length - 1] = START, END
    return ids


def watch(model):
    """Keeps what each block puts out, under the block's own name."""
    seen = {}
    for name, module in model.named_modules():
        blocks = name.rsplit(".", 1)[0].endswith("resblocks")
        if blocks or name in ("visual.ln_pre", "visual.ln_post", "ln_final"):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: seen.__setitem__(f"activation/{name}", output))
    return seen


def tower_files(name, pool, quick, seed):
    settings = config(pool, quick)
    model = build(settings, seed)
    images, ids = random(seed + 1, BATCH, 3, 24, 24), captions(seed + 2)
    upstream_image, upstream_text = random(seed + 3, BATCH, 20), random(seed + 4, BATCH, 20)
    seen = watch(model)
    image, text = model.encode_image(images), model.encode_text(ids)
    ((image * upstream_image).sum() + (text * upstream_text).sum()).backward()
    activations = dict(seen)  # before the check below runs the blocks again

    # Padding must be invisible: a caption cut at its end token has the same feature.
    for row, length in enumerate(LENGTHS):
        tokens = model.token_embedding(ids[row:row + 1, :length]) + model.positional_embedding[:length]
        tokens = model.ln_final(model.transformer(tokens, attn_mask=model.attn_mask[:length, :length]))
        assert torch.allclose(tokens[:, -1] @ model.text_projection, text[row], rtol=1e-12, atol=1e-12)

    parameters = {k: p for k, p in model.named_parameters() if k != "logit_scale"}
    tensors = {f"weight/{k}": p for k, p in model.named_parameters()}
    tensors |= {f"gradient/{k}": p.grad for k, p in parameters.items()}
    tensors |= activations
    tensors |= {
        "input/images": images, "input/ids": ids, "input/lengths": torch.tensor(LENGTHS),
        "upstream/image_features": upstream_image, "upstream/text_features": upstream_text,
        "output/image_features": image, "output/text_features": text,
        "output/image_features_normalized": torch.nn.functional.normalize(image, dim=-1),
        "output/text_features_normalized": torch.nn.functional.normalize(text, dim=-1),
    }
    write(name, tensors, **settings)
    check_f32(settings, seed, tensors)
    return settings, model, images, ids


def check_f32(settings, seed, want):
    """What plain f32 arithmetic loses against the file: the tolerance has to leave room for it."""
    model = build(settings, seed).float()
    image = model.encode_image(want["input/images"].float())
    text = model.encode_text(want["input/ids"])
    ((image * want["upstream/image_features"]).sum() + (text * want["upstream/text_features"]).sum()).backward()
    worst = max(relative(p.grad, want[f"gradient/{k}"]) for k, p in model.named_parameters() if p.grad is not None)
    print(f"  f32 run: features {relative(image, want['output/image_features']):.1e} "
          f"{relative(text, want['output/text_features']):.1e}, gradients {worst:.1e}")
    assert worst < 1e-5


def contrastive_file(model, images, ids):
    model.zero_grad()
    image, text, scale = model(images, ids)
    loss = open_clip.ClipLoss()(image, text, scale)
    loss.backward()
    kept = ("logit_scale", "visual.proj", "visual.class_embedding", "visual.positional_embedding",
            "visual.ln_post.weight", "visual.transformer.resblocks.0.attn.in_proj_weight",
            "visual.transformer.resblocks.1.mlp.c_proj.bias", "text_projection", "token_embedding.weight",
            "positional_embedding", "ln_final.bias", "transformer.resblocks.0.attn.out_proj.weight",
            "transformer.resblocks.1.ln_1.weight")
    gradients = dict(model.named_parameters())
    write("clip/contrastive",
          {"output/loss": loss, "output/scale": scale, "weight/logit_scale": model.logit_scale}
          | {f"gradient/{k}": gradients[k].grad for k in kept},
          model="clip/token_gelu.safetensors")


if __name__ == "__main__":
    _, model, images, ids = tower_files("clip/token_gelu", "tok", False, 11)
    contrastive_file(model, images, ids)
    tower_files("clip/average_quick", "avg", True, 23)
