"""Golden values of the data pipeline: Pillow's resampling and decoding, torchvision's evaluation preprocessing.

requires: pillow==13.0.0 (older ones resize tall images in another order) numpy torchvision
writes: resize/cases.txt, resize/evaluate.txt, images/*.jpg, images/*.png, images/pixels.txt
"""
import pathlib
import struct
import zlib

import numpy as np
import torchvision.transforms.functional as functional
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent
FILTERS = {"box": Image.BOX, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def noise(height, width, seed):
    """Bytes of a linear congruential generator, which the tests repeat."""
    x, values = seed, []
    for _ in range(height * width * 3):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(x >> 24)
    return np.array(values, np.uint8).reshape(height, width, 3)


def fnv(pixels):
    h = 0xCBF29CE484222325
    for byte in np.ascontiguousarray(pixels).tobytes():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def resize_cases():
    sizes = [
        (1, 1, 5, 7), (2, 3, 2, 3), (7, 5, 11, 13), (5, 7, 5, 9), (5, 7, 9, 7), (32, 32, 64, 64), (33, 31, 97, 101),
        (64, 64, 32, 32), (97, 101, 33, 31), (75, 100, 32, 43), (13, 250, 29, 17), (250, 13, 17, 29), (101, 67, 1, 1),
        (67, 101, 100, 3), (31, 47, 48, 32), (128, 96, 127, 95), (63, 127, 64, 128), (120, 160, 56, 75), (17, 1, 3, 6),
        # Either side of the rule by which Pillow 13 takes columns first.
        (61, 40, 21, 20), (60, 40, 20, 20), (90, 30, 20, 60), (50, 31, 53, 40),
    ]
    with open(ROOT / "resize/cases.txt", "w") as out:
        for n, (h, w, new_h, new_w) in enumerate(sizes):
            image = Image.fromarray(noise(h, w, n))
            for name, kind in FILTERS.items():
                out.write(f"{name} {n} {h} {w} 0 0 {h} {w} {new_h} {new_w} {fnv(image.resize((new_w, new_h), kind))}\n")
        for n, (h, w, top, left, part_h, part_w, new_h, new_w) in enumerate(
            [(61, 83, 3, 5, 41, 67, 32, 32), (61, 83, 20, 60, 17, 23, 31, 33), (61, 83, 60, 0, 1, 83, 8, 8), (9, 9, 2, 3, 5, 4, 5, 4)]
        ):
            part = Image.fromarray(noise(h, w, n)).crop((left, top, left + part_w, top + part_h))
            for name, kind in FILTERS.items():
                hashed = fnv(part.resize((new_w, new_h), kind))
                out.write(f"{name} {n} {h} {w} {top} {left} {part_h} {part_w} {new_h} {new_w} {hashed}\n")


def evaluate_cases():
    with open(ROOT / "resize/evaluate.txt", "w") as out:
        for n, (h, w, size) in enumerate([(40, 61, 32), (61, 40, 32), (50, 37, 64), (37, 50, 33), (33, 33, 33), (101, 30, 17), (75, 100, 24)]):
            image = functional.resize(Image.fromarray(noise(h, w, n)), size, functional.InterpolationMode.BICUBIC)
            out.write(f"{n} {h} {w} {size} {fnv(functional.center_crop(image, size))}\n")


def raw_png(pixels, interlaced):
    """RGB of 8 or 16 bits, in one pass or in Adam7's seven: what Pillow does not write."""
    bits = pixels.dtype.itemsize * 8
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for top, left, down, right in passes if interlaced else [(0, 0, 1, 1)]:
        for row in pixels[top::down, left::right].astype(f">u{bits // 8}"):
            data += b"\0" + row.tobytes()
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, int(interlaced))
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
        file += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return file


def image_cases():
    folder = ROOT / "images"
    y, x = np.mgrid[0:29, 0:37]
    wave = np.stack([128 + 90 * np.sin(x / 5 + k) * np.cos(y / 4 - k) for k in range(4)], -1)
    smooth = (wave + np.random.default_rng(1).normal(0, 6, wave.shape)).clip(0, 255).astype(np.uint8)
    rgb, gray = Image.fromarray(smooth[..., :3]), Image.fromarray(smooth[..., 0])
    palette = rgb.quantize(16)
    see_through = palette.copy()
    see_through.info["transparency"] = 3
    wide = (smooth[..., 0].astype(np.uint16) << 8) + 77
    files = {
        "color_420.jpg": (rgb, dict(quality=85)),
        "color_422.jpg": (rgb, dict(quality=90, subsampling=1)),
        "color_444.jpg": (rgb, dict(quality=90, subsampling=0)),
        "progressive.jpg": (rgb, dict(quality=85, progressive=True)),
        "restarts.jpg": (rgb, dict(quality=85, restart_marker_rows=1)),
        "gray.jpg": (gray, dict(quality=85)),
        "cmyk.jpg": (Image.fromarray(smooth, "CMYK"), dict(quality=90)),
        "color.png": (rgb, {}),
        "gray.png": (gray, {}),
        "alpha.png": (Image.fromarray(smooth, "RGBA"), {}),
        "gray_alpha.png": (Image.fromarray(smooth[..., :2], "LA"), {}),
        "palette.png": (palette, {}),
        "palette_alpha.png": (see_through, {}),
        "bits.png": (gray.point(lambda v: 255 * (v > 128)).convert("1"), {}),
        "gray_16.png": (Image.fromarray(wide), {}),
    }
    with open(folder / "pixels.txt", "w") as out:
        for name, interlaced, pixels in (
            ("interlaced.png", True, smooth[..., :3]),
            ("color_16.png", False, smooth[..., :3].astype(np.uint16) * 256 + 200),
        ):
            (folder / name).write_bytes(raw_png(pixels, interlaced))
            decoded = np.asarray(Image.open(folder / name).convert("RGB"))
            assert (decoded == smooth[..., :3]).all()
            out.write(f"{name} 29 37 {fnv(decoded)}\n")
        for name, (image, options) in files.items():
            image.save(folder / name, **options)
            decoded = Image.open(folder / name)
            # Of 16 bits the upper 8 count; Pillow would clip them to 255.
            rgb_pixels = np.asarray(gray.convert("RGB") if name == "gray_16.png" else decoded.convert("RGB"))
            out.write(f"{name} {rgb_pixels.shape[0]} {rgb_pixels.shape[1]} {fnv(rgb_pixels)}\n")


(ROOT / "resize").mkdir(exist_ok=True)
(ROOT / "images").mkdir(exist_ok=True)
resize_cases()
evaluate_cases()
image_cases()
