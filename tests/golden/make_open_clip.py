"""Configurations that come with OpenCLIP and what it builds from them, and the check that it builds one of Yoke's.

requires: torch==2.15.0 open_clip_torch==3.3.0

open_clip/configs.json    name: {"config": the file, "facts": sizes of the model that OpenCLIP builds from it};
                          a configuration that Yoke refuses has "refused", the key that it must name, instead.
open_clip/yoke.json       what tests/io/open_clip_test.cpp writes, byte for byte; here it is only read.
"""
import json

import open_clip
import torch
from open_clip.model import CLIP

from golden import ROOT

PLAIN = [f"{size}{form}" for size in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14") for form in ("", "-quickgelu")]
PLAIN += ["ViT-bigG-14", "ViT-g-14", "ViT-L-14-336", "ViT-S-32-alt", "ViT-B-16-plus-240", "ViT-L-14-worldwide"]
REFUSED = {
    "ViT-B-16-SigLIP": "vision_cfg.timm_model_name", "convnext_base": "vision_cfg.timm_model_name",
    "RN50": "vision_cfg.layers", "roberta-ViT-B-32": "text_cfg.hf_model_name", "coca_ViT-B-32": "multimodal_cfg",
    "ViT-M-16-alt": "vision_cfg.ls_init_value", "ViT-L-14-CLIPA": "text_cfg.pool_type",
}


def build(config):
    """The model, without memory."""
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.device("meta"):
        return CLIP(**settings)


def facts(config):
    model = build(config)
    image, text = model.visual.transformer.resblocks, model.transformer.resblocks
    return {
        "embed_dim": model.visual.proj.shape[1],
        "quick_gelu": type(image[0].mlp.gelu).__name__ == "QuickGELU",
        "vision": {"tokens": model.visual.positional_embedding.shape[0], "patch": model.visual.conv1.weight.shape[-1],
                   "width": model.visual.conv1.weight.shape[0], "layers": len(image),
                   "heads": image[0].attn.num_heads, "mlp_width": image[0].mlp.c_fc.weight.shape[0]},
        "text": {"context": model.positional_embedding.shape[0], "vocabulary": model.token_embedding.weight.shape[0],
                 "width": model.token_embedding.weight.shape[1], "layers": len(text),
                 "heads": text[0].attn.num_heads, "mlp_width": text[0].mlp.c_fc.weight.shape[0]},
    }


def main():
    chosen = {name: {"config": open_clip.get_model_config(name)} for name in (*PLAIN, *REFUSED)}
    for name, entry in chosen.items():
        entry |= {"refused": REFUSED[name]} if name in REFUSED else {"facts": facts(entry["config"])}
    path = ROOT / "open_clip/configs.json"
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in chosen.items())
    path.write_text("{\n" + lines + "\n}\n")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")

    ours = json.loads((ROOT / "open_clip/yoke.json").read_text())
    built = facts(ours["model_cfg"])
    assert built == {"embed_dim": 48, "quick_gelu": True,
                     "vision": {"tokens": 37, "patch": 8, "width": 64, "layers": 3, "heads": 2, "mlp_width": 160},
                     "text": {"context": 16, "vocabulary": 1000, "width": 40, "layers": 2, "heads": 4,
                              "mlp_width": 160}}, built
    model = build(ours["model_cfg"])
    assert model.visual.pool_type == "avg" and model.text_pool_type == "eos" and model.text_eos_id == 3
    assert model.visual.ln_post.eps == 1e-6 and model.ln_final.eps == 1e-5
    open_clip.transform.PreprocessCfg(**ours["preprocess_cfg"])
    print("open_clip/yoke.json: read and right")


if __name__ == "__main__":
    main()
