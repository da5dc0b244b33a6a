"""The bidirectional text tower with mean pooling, on OpenCLIP's TextTransformer.

requires: torch==2.15.0 open_clip_torch==3.3.0 safetensors==0.8.0

OpenCLIP pools text by 'first', 'last', 'argmax', 'eos' or 'none' and offers no mean. The reference therefore
takes pool_type 'none' with no_causal_mask, runs each caption alone and unpadded, and averages the projected
tokens; projecting their mean is the same number. An unpadded caption is what a padding mask has to equal.
"""
import torch
from open_clip.transformer import TextTransformer

from golden import perturb, random, relative, write

CONTEXT, LENGTHS = 12, (12, 1, 7, 4)


def main(name="text/bidirectional_mean", seed=61):
    settings = {"embed_dim": 20, "text_cfg": {"context_length": CONTEXT, "vocab_size": 50, "width": 24, "heads": 3,
                                              "layers": 2, "no_causal_mask": True}, "pool": "mean"}
    model = perturb(TextTransformer(
        context_length=CONTEXT, vocab_size=50, width=24, heads=3, layers=2, output_dim=20, no_causal_mask=True,
        pool_type="none"), seed)
    draw = torch.Generator().manual_seed(seed + 1)
    ids = torch.zeros(len(LENGTHS), CONTEXT, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(1, 50, (length,), generator=draw)
    features = torch.stack([model(ids[row:row + 1, :length]).mean(1)[0] for row, length in enumerate(LENGTHS)])

    masked = TextTransformer(
        context_length=CONTEXT, vocab_size=50, width=24, heads=3, layers=2, output_dim=20, no_causal_mask=True,
        use_pad_mask=True, pool_type="none").double()
    masked.load_state_dict(model.state_dict())
    valid = (ids != 0).double()[..., None]
    averaged = (masked.eval()(ids) * valid).sum(1) / valid.sum(1)
    assert relative(averaged, features.detach()) < 1e-12, "a padding mask must equal the unpadded caption"

    upstream = random(seed + 2, len(LENGTHS), 20)
    (features * upstream).sum().backward()
    tensors = {"input/ids": ids, "input/lengths": torch.tensor(LENGTHS), "upstream/text_features": upstream,
               "output/text_features": features,
               "output/text_features_normalized": torch.nn.functional.normalize(features, dim=-1)}
    for key, parameter in model.named_parameters():
        tensors |= {f"weight/{key}": parameter, f"gradient/{key}": parameter.grad}
    write(name, tensors, **settings)


if __name__ == "__main__":
    main()
