"""Draw docs/boat.png, a picture to ask about: a red sailing boat at sunset. Needs numpy.

    /usr/bin/python3 tools/draw_picture.py docs/boat.png
"""
import struct
import sys
import zlib

import numpy as np

WIDTH, HEIGHT, SCALE = 640, 480, 3  # drawn SCALE times as large, then averaged: smooth edges


def fill(picture, mask, colour):
    picture[mask] = colour


def polygon(x, y, corners):
    """Points inside a convex polygon whose corners go clockwise as seen on the screen."""
    inside = np.ones(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    return inside


def draw():
    y, x = np.mgrid[0:HEIGHT * SCALE, 0:WIDTH * SCALE] / SCALE
    picture = np.empty((*x.shape, 3))
    top, low = np.array([70, 110, 190]), np.array([255, 190, 120])
    picture[:] = top + (low - top) * np.clip(y / 300, 0, 1)[..., None]
    sun = np.hypot(x - 470, y - 210)
    glow = np.exp(-np.maximum(sun - 45, 0) / 60)[..., None]
    picture[:] = picture + (np.array([255, 240, 190]) - picture) * glow * 0.8
    fill(picture, sun < 45, (255, 236, 150))
    fill(picture, y > 262 - 46 * np.exp(-((x - 90) / 90) ** 2) - 30 * np.exp(-((x - 240) / 60) ** 2), (70, 90, 110))
    sea = y > 262
    depth = np.clip((y - 262) / (HEIGHT - 262), 0, 1)
    waves = np.sin(y * 0.9 + 6 * np.sin(x * 0.02) + x * 0.05) * (0.3 + depth)
    water = np.stack([40 + 16 * waves, 90 + 22 * waves, 140 + 26 * waves], -1)
    shine = np.exp(-((x - 470) / (25 + 90 * depth)) ** 2)[..., None] * (0.55 + 0.45 * waves[..., None])
    picture[sea] = (water + (np.array([255, 210, 140]) - water) * np.clip(shine, 0, 1))[sea]
    fill(picture, polygon(x, y, [(140, 330), (330, 330), (300, 370), (170, 370)]), (190, 40, 45))
    fill(picture, polygon(x, y, [(140, 330), (330, 330), (327, 338), (144, 338)]), (245, 240, 230))
    fill(picture, (np.abs(x - 232) < 3) & (y > 120) & (y < 332), (90, 60, 40))
    fill(picture, polygon(x, y, [(238, 130), (318, 318), (238, 318)]), (250, 248, 240))
    fill(picture, polygon(x, y, [(226, 150), (226, 318), (160, 318)]), (240, 220, 190))
    small = picture.reshape(HEIGHT, SCALE, WIDTH, SCALE, 3).mean((1, 3))
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def png(pixels):
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    rows[1:, 1:] -= pixels[:-1].reshape(height - 1, -1)
    rows[1:, 0] = 2  # the filter "up"

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b""))


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        file.write(png(draw()))
