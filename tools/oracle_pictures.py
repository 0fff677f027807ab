"""The golden set's pictures, and what the vision tower gets of them.

draw_pictures() writes small files in the encodings users hold; everything in them is drawn here, with numpy and Pillow,
from fixed seeds. load_rgb() decodes one as the published code does, and pixels_pad(), pixels_crop() and pixels_anyres()
are the three preprocessing modes of design: each gives u8 arrays [side, side, 3] (anyres: [tiles, side, side, 3]).
Pillow does the resizing, so it is the reference for the bicubic filter to the bit.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageOps

EXIF_ORIENTATION = 0x0112


def canvas(width, height, seed):
    """A gradient with a few shapes on it, [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float64)
    u, v = (x / max(width - 1, 1))[..., None], (y / max(height - 1, 1))[..., None]
    ground = (corners[0, 0] * (1 - u) + corners[0, 1] * u) * (1 - v) + (corners[1, 0] * (1 - u) + corners[1, 1] * u) * v
    image = Image.fromarray(np.rint(ground).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        fill = tuple(int(c) for c in rng.integers(0, 256, 3))
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        x1, y1 = int(rng.integers(x0, width)), int(rng.integers(y0, height))
        kind = int(rng.integers(0, 3))
        if kind == 0:
            pen.ellipse((x0, y0, x1, y1), fill=fill)
        elif kind == 1:
            pen.rectangle((x0, y0, x1, y1), fill=fill)
        else:
            pen.polygon(((x0, y1), (x1, y1), ((x0 + x1) // 2, y0)), fill=fill)
    return image


def orientation(value):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = value
    return exif.tobytes()


def draw_pictures(folder):
    """Write every picture into `folder`; returns their names in a fixed order."""
    pictures = {}

    def save(name, image, **options):
        image.save(folder / name, **options)
        pictures[name] = image.size

    save("shapes.png", canvas(150, 100, 1), optimize=True)
    save("palette.png", canvas(97, 61, 2).quantize(16), optimize=True)
    see_through = canvas(64, 80, 3)
    see_through.putalpha(Image.fromarray(np.add.outer(np.arange(80) * 2, np.arange(64)).astype(np.uint8)))
    save("alpha.png", see_through, optimize=True)
    y, x = np.mgrid[0:70, 0:90]
    save(
        "grey16.png",
        Image.fromarray(((x * 523 + y * 389 + (x * y) % 17 * 301) % 65536).astype(np.uint16)),
        optimize=True,
    )
    save("grey.png", canvas(50, 50, 4).convert("L"), optimize=True)
    save("photo.jpg", canvas(220, 130, 5), quality=88)
    save("progressive.jpg", canvas(121, 163, 6), quality=80, progressive=True, subsampling=0)
    save("rotated.jpg", canvas(140, 93, 7), quality=85, exif=orientation(6))
    save("cmyk.jpg", canvas(60, 45, 8).convert("CMYK"), quality=90)
    save("lossy.webp", canvas(111, 77, 9), quality=80)
    save("lossless.webp", canvas(31, 42, 10), lossless=True)
    frames = [canvas(40, 30, seed).quantize(32) for seed in (11, 12, 13)]
    save("animated.gif", frames[0], save_all=True, append_images=frames[1:], duration=80, loop=0)
    save("bitmap.bmp", canvas(33, 21, 14))
    save("column.tiff", canvas(23, 90, 15), compression="tiff_lzw")
    save("narrow.png", canvas(9, 300, 16), optimize=True)
    save("dot.png", canvas(3, 2, 17), optimize=True)
    return pictures


def load_rgb(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I;16":  # Pillow would clip at 255; the published code scales
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def squeeze(image, width, height):
    return image.resize((width, height), Image.Resampling.BICUBIC)


def pixels_pad(image, side):
    """Paste on a black square, resize: [side, side, 3]."""
    width, height = image.size
    if width != height:
        longer = max(width, height)
        square = Image.new("RGB", (longer, longer))
        square.paste(image, ((longer - width) // 2, (longer - height) // 2))
        image = square
    return np.asarray(squeeze(image, side, side))


def pixels_crop(image, side):
    """Shortest edge to `side`, then the centre: [side, side, 3]."""
    width, height = image.size
    longer = int(side * max(width, height) / min(width, height))
    width, height = (side, longer) if width <= height else (longer, side)
    resized = np.asarray(squeeze(image, width, height))
    top, left = (height - side) // 2, (width - side) // 2
    return resized[top : top + side, left : left + side]


def best_resolution(size, pinpoints):
    """The (width, height) of `pinpoints` that keeps most of a picture of `size` and wastes least."""

    def merit(resolution):
        scale = min(resolution[0] / size[0], resolution[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - resolution[0] * resolution[1]

    return max(pinpoints, key=merit)  # max() keeps the first of equals


def pixels_anyres(image, side, pinpoints):
    """The whole picture squeezed, then the tiles of its best resolution, row by row: [1 + tiles, side, side, 3]."""
    width, height = image.size
    grid_width, grid_height = best_resolution(image.size, pinpoints)
    across, down = grid_width / width, grid_height / height
    if across < down:
        new_width, new_height = grid_width, min(math.ceil(height * across), grid_height)
    else:
        new_width, new_height = min(math.ceil(width * down), grid_width), grid_height
    padded = Image.new("RGB", (grid_width, grid_height))
    padded.paste(
        squeeze(image, new_width, new_height), ((grid_width - new_width) // 2, (grid_height - new_height) // 2)
    )
    padded = np.asarray(padded)
    tiles = [np.asarray(squeeze(image, side, side))]
    for top in range(0, grid_height, side):
        for left in range(0, grid_width, side):
            tiles.append(padded[top : top + side, left : left + side])
    return np.stack(tiles)
