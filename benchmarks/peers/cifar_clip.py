"""OpenCLIP trained on captions of CIFAR-10 shards, then zero-shot on the test shard: accuracy beside time.

usage: cifar_clip.py FOLDER [WIDTH] [LAYERS] [EPOCHS] [BATCH]      default: 128 4 1 250

FOLDER holds cifar10-train-*.tar and cifar10-test-*.tar. The samples are decoded before the clock starts and stay in
memory. Text: width WIDTH, 2 layers, 16 tokens. One line an epoch goes to stderr; the rate excludes the evaluation.
"""
import io
import pathlib
import sys
import tarfile
import time

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image

from measure import gemm_peak, gflop, most_memory, report

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
TEMPLATES = ("a photo of a {}.", "a blurry photo of a {}.", "a photo of the {}.")


def load(folder, pattern):
    """Images (samples, 3, 32, 32) uint8, captions, classes of all shards in order."""
    images, captions, classes = [], [], []
    shards = sorted(pathlib.Path(folder).glob(pattern))
    if not shards:
        sys.exit(f"cifar_clip.py: no {pattern} in {folder}")
    for shard in shards:
        with tarfile.open(shard) as members:
            for member in members:
                content = members.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    images.append(np.asarray(Image.open(io.BytesIO(content))))
                elif member.name.endswith(".txt"):
                    captions.append(content.decode())
                elif member.name.endswith(".cls"):
                    classes.append(int(content))
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2), captions, torch.tensor(classes)


def scaled(images):
    return (images.float() / 255 - torch.tensor([0.49, 0.48, 0.45])[:, None, None]) / 0.25


def zero_shot(model, tokenize, images, classes):
    """Top-1 accuracy of the classes' averaged prompts."""
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        heads = []
        for name in CLASSES:
            prompts = model.encode_text(tokenize([t.format(name) for t in TEMPLATES]), normalize=True)
            heads.append(torch.nn.functional.normalize(prompts.float().mean(0), dim=0))
        weights = torch.stack(heads)
        guesses = [(model.encode_image(scaled(part), normalize=True).float() @ weights.T).argmax(1)
                   for part in images.split(1000)]
    model.train()
    return (torch.cat(guesses) == classes).float().mean().item()


def main(folder, width="128", layers="4", epochs="1", batch="250"):
    width, layers, epochs, batch = int(width), int(layers), int(epochs), int(batch)
    images, captions, _ = load(folder, "cifar10-train-*.tar")
    test_images, _, test_classes = load(folder, "cifar10-test-*.tar")
    tokenize = open_clip.get_tokenizer("ViT-B-32", context_length=16)
    ids = tokenize(captions)
    torch.manual_seed(0)
    model = CLIP(width, CLIPVisionCfg(layers=layers, width=width, head_width=32, patch_size=4, image_size=32),
                 CLIPTextCfg(context_length=16, vocab_size=49408, width=width, heads=width // 32, layers=2))
    contrastive = open_clip.ClipLoss()
    steps = len(images) // batch
    if steps == 0:
        sys.exit(f"cifar_clip.py: a batch of {batch} from {len(images)} samples")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * steps, pct_start=0.2)

    def backward(picked):
        flipped = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, images[picked].flip(3), images[picked])
        with torch.autocast("cpu", torch.bfloat16):
            loss = contrastive(*model(scaled(flipped), ids[picked]))
        optimizer.zero_grad()
        loss.backward()
        return loss

    work_done, peak = gflop(lambda: backward(torch.arange(batch))), gemm_peak(torch.bfloat16)
    training, accuracies = 0.0, []
    for epoch in range(epochs):
        begin = time.perf_counter()
        for picked in torch.randperm(len(images))[: steps * batch].split(batch):
            loss = backward(picked)
            optimizer.step()
            schedule.step()
        training += time.perf_counter() - begin
        accuracies.append(zero_shot(model, tokenize, test_images, test_classes))
        print(f"epoch {epoch + 1}: {training:.0f} s, loss {loss.item():.3f}, zero-shot {100 * accuracies[-1]:.1f} %",
              file=sys.stderr, flush=True)
    peak = max(peak, gemm_peak(torch.bfloat16))
    pairs = epochs * steps * batch
    report(f"CIFAR-10 shards, width {width}, {layers} layers", "autocast", pairs / training, "pairs/s",
           work_done * epochs * steps / training / peak, batch=batch, epochs=epochs, epoch_seconds=training / epochs,
           zero_shot=[round(a, 4) for a in accuracies],
           gflops=work_done * epochs * steps / training, peak_gflops=peak, memory_gb=most_memory())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
