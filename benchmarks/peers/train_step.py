"""What the two step measurements do with their model: forward, contrastive loss, backward, AdamW; pairs per second."""
import open_clip
import torch

from measure import beside_peak, gflop, most_memory, report

MODES = ("f32", "autocast", "bf16", "compile")


def measure_step(work, mode, model, images, ids, rate, repeats, warm):
    """`mode`: f32; autocast to bf16; bf16 parameters too; autocast compiled. Prints the line."""
    if mode == "bf16":
        model, images = model.bfloat16(), images.bfloat16()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    contrastive = open_clip.ClipLoss()
    mixed = mode in ("autocast", "compile")

    def step(forward):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = contrastive(*forward(images, ids))
        loss.backward()
        optimizer.step()

    work_done = gflop(lambda: step(model))
    forward = torch.compile(model) if mode == "compile" else model
    dtype = torch.float32 if mode == "f32" else torch.bfloat16
    best, median, peak = beside_peak(dtype, lambda: step(forward), repeats, warm)
    pairs = images.shape[0]
    report(work, mode, pairs / best, "pairs/s", work_done / best / peak, batch=pairs, median_rate=pairs / median,
           gflop_per_pair=work_done / pairs, gflops=work_done / best, peak_gflops=peak, memory_gb=most_memory())
