#!/usr/bin/env python3
"""Write the pictures that the image tests read: tests/data/images, with what Pillow makes of them in cases.txt.

Needs Pillow 13, pillow-heif and numpy; the files are committed, so that the tests do not. Everything is drawn here. The
kinds that Pillow cannot write (odd depths, interlacing, run lengths, planes, lies in headers) are put together byte by
byte. A line of cases.txt is one check; hashes are FNV-1a of the pixels, 64 bits:

    exact NAME WIDTH HEIGHT HASH                   decoded, every byte as Pillow has it
    close NAME WIDTH HEIGHT TOLERANCE              decoded, near NAME.rgb: the library's version decides the last bit
    error NAME STATUS WORD                         refused with this status and a message that holds the word
    resize SEED WIDTH HEIGHT NEW_WIDTH NEW_HEIGHT HASH
    tiles MODE NAME SIZE COUNT COLUMNS ROWS HASH   preprocessed; the grids of anyres are those of PINPOINTS
"""
import io
import math
import pathlib
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data" / "images"
WIDTH, HEIGHT = 37, 26  # no multiple of any block size
PINPOINTS = [(1, 2), (2, 1), (2, 2)]  # in tiles
ORIENTATION = 0x112

lines = []
rng = np.random.default_rng(20261124)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def drawing(width=WIDTH, height=HEIGHT, channels=3):
    """Waves, a hard-edged block and a diagonal, u8 [height, width, channels]."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    waves = [127 + 120 * np.sin(x / (4 + 2 * c) + c) * np.cos(y / (5 + c) + 2 * c) for c in range(channels)]
    picture = np.stack(waves, -1)
    picture[height // 4:height // 2, width // 3:width // 2] = [255, 0, 30, 128][:channels]
    picture[np.abs(x * height - y * width) < width] = [20, 200, 250, 40][:channels]
    return np.clip(picture, 0, 255).astype(np.uint8)


def load_rgb(path):
    image = Image.open(path)
    if image.mode.startswith("I;16"):  # Pillow would cut at 255; the published code scales
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exact(name, data):
    (FOLDER / name).write_bytes(data)
    image = load_rgb(FOLDER / name)
    lines.append(f"exact {name} {image.width} {image.height} {fnv(image.tobytes())}")


def close(name, data, tolerance):
    (FOLDER / name).write_bytes(data)
    image = load_rgb(FOLDER / name)
    (FOLDER / f"{name}.rgb").write_bytes(image.tobytes())
    lines.append(f"close {name} {image.width} {image.height} {tolerance}")


def error(name, data, status, word):
    (FOLDER / name).write_bytes(data)
    lines.append(f"error {name} {status} {word}")


def exif(orientation):
    block = Image.Exif()
    block[0x10F] = "fastvlm"
    block[ORIENTATION] = orientation
    return block


def pack(samples, bits, order=">"):
    """Rows of samples [height, width, channels] as most formats store them: high bits first, rows padded to bytes."""
    rows = []
    for row in samples.reshape(samples.shape[0], -1):
        if bits >= 8:
            rows.append(row.astype(f"{order}u{bits // 8}").tobytes())
        else:
            text = "".join(format(int(value), f"0{bits}b") for value in row)
            text += "0" * (-len(text) % 8)
            rows.append(bytes(int(text[i:i + 8], 2) for i in range(0, len(text), 8)))
    return rows


def jpeg_segment(marker, body):
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpegs(colour, grey):
    for name, options in (("420", {}), ("422", {"subsampling": 1}), ("444", {"subsampling": 0}),
                          ("411", {"subsampling": "4:1:1"}), ("progressive", {"progressive": True}),
                          ("restart", {"restart_marker_blocks": 2}), ("rgb", {"keep_rgb": True})):
        exact(f"jpeg_{name}.jpg", encoded(colour, "JPEG", quality=80, **options))
    exact("jpeg_grey.jpg", encoded(grey, "JPEG"))
    exact("jpeg_cmyk.jpg", encoded(colour.convert("CMYK"), "JPEG", quality=85))
    ycck = bytearray(encoded(colour.convert("CMYK"), "JPEG", quality=85))
    adobe = b"Adobe\0\x64\0\0\0\0\x02"  # transform 2: the same numbers read as YCCK
    exact("jpeg_ycck.jpg", bytes(ycck[:2] + jpeg_segment(0xEE, adobe) + ycck[2:]) if b"Adobe" not in ycck else
          bytes(ycck).replace(ycck[ycck.index(b"Adobe"):][:12], adobe))
    for orientation in range(1, 9):
        exact(f"jpeg_turned{orientation}.jpg", encoded(colour, "JPEG", quality=60, exif=exif(orientation)))
    plain = encoded(colour, "JPEG", quality=60)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exact("jpeg_xmp.jpg", plain[:2] + jpeg_segment(0xE1, xmp) + plain[2:])
    error("jpeg_half.jpg", plain[:len(plain) // 2], "format", "truncated")
    error("jpeg_no_end.jpg", plain[:-2], "format", "truncated")
    huge = bytearray(plain)
    start = huge.index(b"\xff\xc0")
    huge[start + 5:start + 9] = struct.pack(">HH", 65000, 65000)
    error("jpeg_huge.jpg", bytes(huge), "limit", "65000")
    small = encoded(Image.fromarray(drawing(8, 8)), "JPEG", progressive=True)
    scan = small.rindex(b"\xff\xda")
    error("jpeg_scans.jpg", small[:-2] + small[scan:-2] * 600 + small[-2:], "limit", "scans")


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples, bits, colour_type, interlaced=False, before=b"", after=b"", size=None):
    """samples [height, width, channels]; `before` and `after` are chunks around the pixels."""
    height, width = size or samples.shape[:2]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b""
    for x, y, step_x, step_y in passes if interlaced else ((0, 0, 1, 1),):
        part = samples[y::step_y, x::step_x]
        rows += b"".join(b"\0" + row for row in pack(part, bits)) if part.size else b""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(rows, 9)) +
            after + png_chunk(b"IEND", b""))


def pngs(colour):
    palette = rng.integers(0, 256, 768).astype(np.uint8).tobytes()
    for colour_type, channels, depths in ((0, 1, (1, 2, 4, 8, 16)), (2, 3, (8, 16)), (3, 1, (1, 2, 4, 8)),
                                          (4, 2, (8, 16)), (6, 4, (8, 16))):
        for bits in depths:
            samples = rng.integers(0, 1 << bits, (11, 13, channels))
            before = png_chunk(b"PLTE", palette[:3 << bits]) if colour_type == 3 else b""
            for interlaced in (False, True):
                exact(f"png_type{colour_type}_{bits}{'_interlaced' if interlaced else ''}.png",
                      png(samples, bits, colour_type, interlaced, before))
    indices = rng.integers(0, 16, (9, 9, 1))
    short, transparent = png_chunk(b"PLTE", palette[:15]), png_chunk(b"tRNS", b"\0\x80\xff")
    exact("png_short_palette.png", png(indices, 4, 3, before=short + transparent))
    exact("png_grey_trns.png", png(indices, 4, 0, before=png_chunk(b"tRNS", b"\0\3")))
    pixels = np.asarray(colour)
    exact("png_gamma.png", png(pixels, 8, 2, before=png_chunk(b"gAMA", struct.pack(">I", 100000))))
    block = exif(6).tobytes()
    exact("png_exif.png", png(pixels, 8, 2, before=png_chunk(b"eXIf", block[6:])))
    exact("png_exif_last.png", png(pixels, 8, 2, after=png_chunk(b"eXIf", block[6:])))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="5"/>'
    exact("png_xmp.png", png(pixels, 8, 2, before=png_chunk(b"iTXt", xmp)))
    profile = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    key = b"Raw profile type exif\0"
    exact("png_raw_profile.png", png(pixels, 8, 2, before=png_chunk(b"zTXt", key + b"\0" + zlib.compress(profile))))
    bomb = png_chunk(b"zTXt", key + b"\0" + zlib.compress(bytes(12 << 20), 9))  # Pillow refuses it, we pass over it
    (FOLDER / "png_text_bomb.png").write_bytes(png(pixels[:5, :5], 8, 2, before=bomb))
    lines.append(f"exact png_text_bomb.png 5 5 {fnv(pixels[:5, :5].tobytes())}")
    whole = png(pixels, 8, 2)
    error("png_half.png", whole[:len(whole) // 2], "format", "truncated")
    error("png_huge.png", png(pixels[:1], 8, 2, size=(46341, 46341)), "limit", "46341")
    error("png_missing_rows.png", png(pixels[:3], 8, 2, size=(HEIGHT, WIDTH)), "format", "PNG")
    broken = bytearray(whole)
    broken[whole.index(b"IDAT") + 40] ^= 4
    error("png_checksum.png", bytes(broken), "format", "damaged")


def webps(colour, alpha):
    exact("webp_lossy.webp", encoded(colour, "WEBP", quality=70))
    exact("webp_lossless.webp", encoded(colour, "WEBP", lossless=True))
    exact("webp_alpha.webp", encoded(alpha, "WEBP", quality=80))
    exact("webp_alpha_lossless.webp", encoded(alpha, "WEBP", lossless=True, exact=True))
    exact("webp_exif.webp", encoded(colour, "WEBP", exif=exif(8)))
    exact("webp_xmp.webp", encoded(colour, "WEBP", xmp=b'<x tiff:Orientation="7"/>'))
    exact("webp_animated.webp", encoded(alpha, "WEBP", save_all=True, append_images=[alpha.rotate(180)], quality=60))
    still = encoded(Image.fromarray(drawing(10, 8, 4)), "WEBP", lossless=True)
    stream = still[still.index(b"VP8L"):]

    def number(value):
        return struct.pack("<I", value)[:3]

    def chunk(kind, body):
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)

    frame = number(2) + number(3) + number(9) + number(7) + number(100) + b"\0" + stream  # at 4, 6

    def animation(width, height):
        body = (b"WEBP" + chunk(b"VP8X", b"\x12\0\0\0" + number(width - 1) + number(height - 1)) +
                chunk(b"ANIM", b"\x33\x22\x11\xff\0\0") + chunk(b"ANMF", frame))
        return b"RIFF" + struct.pack("<I", len(body)) + body

    exact("webp_small_frame.webp", animation(30, 20))
    whole = encoded(colour, "WEBP", quality=70)
    error("webp_half.webp", whole[:len(whole) // 2], "format", "truncated")
    error("webp_huge.webp", animation(46341, 46341), "limit", "46341")


def gif(screen, frame, indices, table=b"", local=b"", transparent=None, interlaced=False):
    """16 colours; the pixels stay 5-bit codes by clearing the table every 14 of them."""
    def descriptor(colours):
        return 0x80 | 3 if colours else 0

    codes = []
    for i, index in enumerate(indices):
        codes += [16, index] if i % 14 == 0 else [index]
    value = 0
    for i, code in enumerate(codes + [17]):
        value |= code << 5 * i
    data = value.to_bytes((5 * len(codes) + 12) // 8, "little")
    blocks = b"".join(bytes((len(data[i:i + 255]),)) + data[i:i + 255] for i in range(0, len(data), 255))
    control = b"" if transparent is None else b"\x21\xf9\4\1\0\0" + bytes((transparent,)) + b"\0"
    return (b"GIF89a" + struct.pack("<HHBBB", *screen, descriptor(table), 7, 0) + table + control + b"\x2c" +
            struct.pack("<HHHHB", *frame, descriptor(local) | 0x40 * interlaced) + local + b"\4" + blocks + b"\0;")


def gifs(colour):
    table, local = (rng.integers(0, 256, 48).astype(np.uint8).tobytes() for _ in range(2))
    ramp = bytes(i for i in range(16) for _ in range(3))
    indices = rng.integers(0, 16, 63).tolist()
    exact("gif_plain.gif", encoded(colour.quantize(64), "GIF"))
    exact("gif_animated.gif", encoded(colour.quantize(16), "GIF", save_all=True,
                                      append_images=[colour.rotate(180).quantize(16)], disposal=2))
    exact("gif_interlaced.gif", gif((9, 7), (0, 0, 9, 7), indices, table, interlaced=True))
    exact("gif_small_frame.gif", gif((20, 15), (3, 4, 9, 7), indices, table))
    exact("gif_transparent.gif", gif((20, 15), (3, 4, 9, 7), indices, table, local, transparent=9, interlaced=True))
    exact("gif_beyond.gif", gif((6, 5), (3, 4, 9, 7), indices, table, transparent=2))
    exact("gif_ramp.gif", gif((9, 7), (0, 0, 9, 7), indices, ramp))
    exact("gif_no_table.gif", gif((9, 7), (0, 0, 9, 7), indices))
    whole = encoded(colour.quantize(64), "GIF")
    error("gif_half.gif", whole[:len(whole) // 2], "format", "truncated")
    error("gif_huge.gif", gif((65535, 65535), (0, 0, 9, 7), indices, table), "limit", "65535")


def bmp(size, bits, body, compression=0, palette=b"", colours=0, masks=b"", header=40, offset=None):
    """size: (width, height), a negative height for rows from the top."""
    if header == 12:
        info = struct.pack("<IHHHH", 12, *size, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, len(body), 2835, 2835, colours, 0)
    if header > 40:
        info += masks.ljust(header - 40, b"\0")
        masks = b""
    start = 14 + len(info) + len(masks) + len(palette) if offset is None else offset
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, start) + info + masks + palette + body


def bmps(colour):
    palette = b"".join(bytes(rng.integers(0, 256, 3).astype(np.uint8)) + b"\0" for _ in range(256))

    def padded(samples, bits):
        return b"".join(row + b"\0" * (-len(row) % 4) for row in pack(samples, bits, "<"))

    for bits in (1, 4, 8):
        samples = rng.integers(0, 1 << bits, (7, 9, 1))
        table, thin = palette[:4 << bits], b"".join(palette[i:i + 3] for i in range(0, 4 << bits, 4))
        exact(f"bmp_{bits}.bmp", bmp((9, 7), bits, padded(samples, bits), palette=table))
        exact(f"bmp_{bits}_down.bmp", bmp((9, -7), bits, padded(samples, bits), palette=table, header=124))
        exact(f"bmp_{bits}_os2.bmp", bmp((9, 7), bits, padded(samples, bits), palette=thin, header=12))
    exact("bmp_few_colours.bmp", bmp((9, 7), 8, padded(rng.integers(0, 5, (7, 9, 1)), 8), palette=palette[:12], colours=3))
    exact("bmp_offset.bmp", bmp((9, 7), 4, padded(rng.integers(0, 16, (7, 9, 1)), 4), palette=palette[:64], offset=54))
    words = padded(rng.integers(0, 1 << 16, (7, 9, 1)), 16)
    exact("bmp_16.bmp", bmp((9, 7), 16, words))
    exact("bmp_565.bmp", bmp((9, 7), 16, words, 3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
    exact("bmp_24.bmp", encoded(colour, "BMP"))
    quads = rng.integers(0, 256, 252).astype(np.uint8).tobytes()
    exact("bmp_32.bmp", bmp((9, 7), 32, quads))
    rgba = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    exact("bmp_32_masks.bmp", bmp((9, 7), 32, quads, 3, masks=rgba, header=108))
    runs = bytes((9, 5, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 4, 9, 0, 0, 3, 7, 0, 2, 2, 1, 1, 8, 0, 0, 9, 6, 0, 1))
    exact("bmp_rle8.bmp", bmp((9, 4), 8, runs, 1, palette=palette))
    nibbles = bytes((9, 0x5A, 0, 0, 0, 5, 0x12, 0x34, 0x50, 0, 4, 0x67, 0, 0, 20, 0x11, 0, 0, 9, 0x23, 0, 1))
    exact("bmp_rle4.bmp", bmp((9, 4), 4, nibbles, 2, palette=palette[:64]))
    error("bmp_half.bmp", encoded(colour, "BMP")[:1500], "format", "truncated")
    error("bmp_huge.bmp", bmp((46341, 46341), 24, b""), "limit", "46341")
    error("bmp_depth.bmp", bmp((9, 7), 5, quads), "unsupported", "depth")
    error("bmp_runs_end.bmp", bmp((9, 4), 8, runs[:8], 1, palette=palette), "format", "truncated")


def tiff(size, photometric, bits, channels, parts, order="<", *, more=(), tile=None, rows=None, packed=False):
    """parts: strips or tiles as bytes; more: (tag, type letter, values)."""
    width, height = size
    tags = [(256, "I", [width]), (257, "I", [height]), (258, "H", [bits] * channels), (259, "H", [8 if packed else 1]),
            (262, "H", [photometric]), (277, "H", [channels]), *more]
    body, offsets, sizes = b"", [], []
    for part in parts:
        part = zlib.compress(part) if packed else part
        offsets.append(8 + len(body))
        sizes.append(len(part))
        body += part + b"\0" * (len(part) & 1)
    if tile:
        tags += [(322, "I", [tile]), (323, "I", [tile]), (324, "I", offsets), (325, "I", sizes)]
    else:
        tags += [(273, "I", offsets), (278, "I", [rows or height]), (279, "I", sizes)]
    directory, values, place = struct.pack(order + "H", len(tags)), b"", 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, letter, numbers in sorted(tags):
        data = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[letter], len(numbers))
        if len(data) > 4:
            directory += struct.pack(order + "I", place + len(values))
            values += data + b"\0" * (len(data) & 1)
        else:
            directory += data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8 + len(body)) + body + directory + b"\0\0\0\0" + values


def tiffs(colour, grey):
    size = 21, 13

    def whole(samples, bits, order="<"):
        return b"".join(pack(samples, bits, order))

    for photometric in (0, 1):
        for bits in (1, 4, 8):
            samples = rng.integers(0, 1 << bits, (13, 21, 1))
            exact(f"tiff_grey{photometric}_{bits}.tif", tiff(size, photometric, bits, 1, [whole(samples, bits)]))
    samples = rng.integers(0, 1 << 16, (13, 21, 3))
    for order, name in (("<", "little"), (">", "big")):
        exact(f"tiff_grey16_{name}.tif", tiff(size, 1, 16, 1, [whole(samples[..., :1], 16, order)], order))
        exact(f"tiff_rgb16_{name}.tif", tiff(size, 2, 16, 3, [whole(samples, 16, order)], order, packed=True))
    colour_map = [(320, "H", rng.integers(0, 1 << 16, 3 << 4).tolist())]
    exact("tiff_palette.tif", tiff(size, 3, 4, 1, [whole(samples[..., :1] & 15, 4)], more=colour_map))
    samples = rng.integers(0, 256, (13, 21, 4))
    for extra in (0, 1, 2):
        exact(f"tiff_rgba{extra}.tif", tiff(size, 2, 8, 4, [whole(samples, 8)], more=[(338, "H", [extra])]))
    exact("tiff_cmyk.tif", tiff(size, 5, 8, 4, [whole(samples, 8)], packed=True))
    planes = [whole(samples[..., c:c + 1], 8) for c in range(3)]
    exact("tiff_planes.tif", tiff(size, 2, 8, 3, planes, more=[(284, "H", [2])], packed=True))
    exact("tiff_strips.tif", tiff(size, 2, 8, 3, [whole(samples[y:y + 5, :, :3], 8) for y in (0, 5, 10)], rows=5))
    sheet = np.zeros((16, 32, 3), int)
    sheet[:13, :21] = samples[..., :3]
    tiles = [whole(sheet[:, x:x + 16], 8) for x in (0, 16)]
    exact("tiff_tiles.tif", tiff(size, 2, 8, 3, tiles, tile=16))
    exact("tiff_float.tif", tiff(size, 1, 32, 1, [(rng.normal(100, 150, (13, 21))).astype("<f4").tobytes()],
                                 more=[(339, "H", [3])]))
    ycbcr = rng.integers(0, 256, 20 * 12 * 3 // 2).astype(np.uint8).tobytes()
    exact("tiff_ycbcr.tif", tiff((20, 12), 6, 8, 3, [ycbcr], more=[(530, "H", [2, 2])], packed=True))
    exact("tiff_lzw.tif", encoded(colour, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}))
    exact("tiff_jpeg.tif", encoded(colour, "TIFF", compression="jpeg", quality=80))
    exact("tiff_fax.tif", encoded(grey.convert("1"), "TIFF", compression="group4"))
    for orientation in (3, 6):
        exact(f"tiff_turned{orientation}.tif", encoded(colour, "TIFF", tiffinfo={274: orientation}))
    error("tiff_half.tif", encoded(colour, "TIFF")[:1500], "format", "TIFF")
    error("tiff_huge.tif", tiff((46341, 46341), 2, 8, 3, [b"123"]), "limit", "46341")
    error("tiff_huge_tile.tif", tiff(size, 2, 8, 3, [b"123"], tile=1 << 20), "limit", "tiles")
    error("tiff_short_strip.tif", tiff(size, 2, 8, 3, [whole(samples[:9, :, :3], 8)], packed=True), "format", "TIFF")


def modern(colour, alpha):
    """AVIF and HEIC: the same stream in another version of the library may differ in the last bit."""
    even = Image.fromarray(drawing(64, 48))
    for chroma in ("4:2:0", "4:4:4"):
        close(f"avif_{chroma.replace(':', '')}.avif", encoded(even, "AVIF", quality=75, subsampling=chroma), 2)
    close("avif_alpha.avif", encoded(alpha, "AVIF", quality=85, subsampling="4:4:4"), 2)
    for orientation in (2, 6, 7):
        close(f"avif_turned{orientation}.avif",
              encoded(colour, "AVIF", quality=80, subsampling="4:4:4", exif=exif(orientation)), 2)
    for chroma in (420, 444):
        close(f"heic_{chroma}.heic", encoded(even, "HEIF", quality=70, chroma=chroma), 2)
    close("heic_turned6.heic", encoded(even, "HEIF", quality=70, exif=exif(6).tobytes()), 2)
    for name, data in (("avif_half.avif", encoded(even, "AVIF")), ("heic_half.heic", encoded(even, "HEIF"))):
        error(name, data[:len(data) // 2], "format", name[:4].upper() if name[0] == "a" else "HEIF")


def noise(seed, width, height):
    """The pixels that test_resize.c makes from the same seed."""
    state, values = seed, bytearray()
    for _ in range(width * height * 3):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state >> 24)
    return Image.frombytes("RGB", (width, height), bytes(values))


def resizes():
    sizes = ((1, 1, 5, 3), (5, 3, 64, 64), (64, 48, 32, 24), (33, 90, 32, 32), (90, 33, 32, 32), (7, 200, 64, 16),
             (200, 7, 16, 64), (100, 60, 100, 20), (100, 60, 20, 60), (40, 40, 40, 40), (3, 300, 2, 7), (61, 59, 60, 58),
             (60, 90, 40, 30), (60, 90, 30, 32))  # on either side of the rule for which pass comes first
    for seed, (width, height, new_width, new_height) in enumerate(sizes, 1):
        resized = noise(seed, width, height).resize((new_width, new_height), Image.Resampling.BICUBIC)
        lines.append(f"resize {seed} {width} {height} {new_width} {new_height} {fnv(resized.tobytes())}")


def pad(image, size):
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return [square.resize((size, size))], (0, 0)


def crop(image, size):
    long = int(size * max(image.size) / min(image.size))
    resized = image.resize((size, long) if image.width <= image.height else (long, size))
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return [resized.crop((left, top, left + size, top + size))], (0, 0)


def anyres(image, size):
    best, best_kept, least_wasted = None, 0, math.inf
    for columns, rows in PINPOINTS:
        scale = min(columns * size / image.width, rows * size / image.height)
        kept = min(int(image.width * scale) * int(image.height * scale), image.width * image.height)
        wasted = columns * rows * size * size - kept
        if kept > best_kept or (kept == best_kept and wasted < least_wasted):
            best, best_kept, least_wasted = (columns, rows), kept, wasted
    width, height = best[0] * size, best[1] * size
    scale_x, scale_y = width / image.width, height / image.height
    if scale_x < scale_y:
        fitted = width, min(math.ceil(image.height * scale_x), height)
    else:
        fitted = min(math.ceil(image.width * scale_y), width), height
    sheet = Image.new("RGB", (width, height))
    sheet.paste(image.resize(fitted), ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
    tiles = [sheet.crop((x, y, x + size, y + size)) for y in range(0, height, size) for x in range(0, width, size)]
    return [image.resize((size, size)), *tiles], best


def tiles():
    wide = encoded(Image.fromarray(drawing(300, 40)), "PNG", optimize=True)
    tall = encoded(Image.fromarray(drawing(21, 180)), "PNG", optimize=True)
    small = encoded(Image.fromarray(drawing(5, 4)), "PNG")
    photo = encoded(Image.fromarray(drawing(120, 91)), "PNG", optimize=True)
    for name, data in (("wide.png", wide), ("tall.png", tall), ("small.png", small), ("photo.png", photo)):
        exact(name, data)
        for mode in (pad, crop, anyres):
            for size in (64, 32):
                made, grid = mode(load_rgb(FOLDER / name), size)
                pixels = b"".join(tile.tobytes() for tile in made)
                lines.append(f"tiles {mode.__name__} {name} {size} {len(made)} {grid[0]} {grid[1]} {fnv(pixels)}")


def main():
    pillow_heif.register_heif_opener()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    colour, alpha = Image.fromarray(drawing()), Image.fromarray(drawing(channels=4))
    grey = Image.fromarray(drawing(channels=1)[..., 0])
    jpegs(colour, grey)
    pngs(colour)
    webps(colour, alpha)
    gifs(colour)
    bmps(colour)
    tiffs(colour, grey)
    modern(colour, alpha)
    resizes()
    tiles()
    error("text.txt", b"not a picture\n", "unsupported", "known")
    error("empty.png", b"", "format", "empty")
    (FOLDER / "cases.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
