"""Writes eval/figures.txt: zero-shot and retrieval figures of made-up embeddings, by numpy in
double. The embeddings are a formula, so that the test can make them too."""
import pathlib

import numpy as np


def embeddings(rows, width, seed, centres):
    """Row i lies near centre centres[i]; every value is an exact float."""
    i, k = np.meshgrid(np.arange(rows, dtype=np.int64), np.arange(width, dtype=np.int64), indexing="ij")
    noise = ((i * 7919 + k * 104729 + i * k * 31 + seed * 613) % 2003 - 1001) / 1024
    c = np.asarray(centres)[:, None]
    centre = ((c * 5021 + k * 3671 + c * k * 17) % 1009 - 504) / 2048
    return noise + 2 * centre


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def ranks(scores, right):
    """From 1; stable, so the lower column first in a tie."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.array([min(np.where(order[q] == r)[0][0] for r in right[q]) + 1 for q in range(len(order))])


lines = []
width = 24

# Zero-shot: 11 classes, 3 templates, 203 images.
classes, templates, images = 11, 3, 203
labels = np.arange(images) * 5 % classes
prompts = unit(embeddings(classes * templates, width, 1, np.repeat(np.arange(classes), templates)))
weights = unit(prompts.reshape(classes, templates, width).mean(1))
scores = unit(embeddings(images, width, 2, labels)) @ weights.T
rank = ranks(scores, labels[:, None])
confusion = np.zeros((classes, classes), int)
np.add.at(confusion, (labels, scores.argmax(1)), 1)
lines.append(("top1_top5", [(rank == 1).mean(), (rank <= 5).mean()]))
lines.append(("per_class", confusion.diagonal() / confusion.sum(1)))
lines.append(("confusion", confusion.ravel()))
lines.append(("weights", weights.ravel()))

# Retrieval: 47 images with one to three captions each, captions in a shuffled order.
owner = np.concatenate([np.repeat(i, i % 3 + 1) for i in range(47)])
owner = owner[np.arange(len(owner)) * 7 % len(owner)]
image = unit(embeddings(47, width, 3, np.arange(47)))
text = unit(embeddings(len(owner), width, 4, owner))
scores = image @ text.T
for name, s, right in [
    ("image_to_text", scores, [np.where(owner == i)[0] for i in range(47)]),
    ("text_to_image", scores.T, owner[:, None]),
]:
    r = ranks(s, right)
    lines.append((name, [(r <= 1).mean(), (r <= 5).mean(), (r <= 10).mean(), np.median(r)]))
    lines.append((name + "_ranks", r))
lines.append(("nearest", np.argsort(-scores.T, axis=1, kind="stable")[:, :4].ravel()))

with open(pathlib.Path(__file__).parent / "eval" / "figures.txt", "w") as file:
    for name, values in lines:
        file.write(name + " " + " ".join(f"{v:.9g}" for v in values) + "\n")
