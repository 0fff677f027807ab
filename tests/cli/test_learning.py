"""train: a model of random weights learns to name the colour of a square, in two stages: its tower by labels, then
projector and language model by answers. Pictures are drawn here; the model is make_demo_model's smallest."""
import json
import random
import struct
import subprocess
import zlib

from conftest import BUILD

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (235, 215, 50),
    "orange": (240, 140, 30), "purple": (140, 50, 170), "black": (15, 15, 15), "white": (245, 245, 245),
}
SIDE = 64


def png(pixels):
    """Rows of (red, green, blue) as a file."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in pixels)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b"")


def draw(folder, count, seed):
    """Squares of any place and size, their colours and the grey ground varied a little."""
    chooser, samples = random.Random(seed), []
    folder.mkdir()
    for i in range(count):
        name, grey, size = chooser.choice(list(COLOURS)), chooser.randrange(70, 190), chooser.randrange(16, 40)
        left, top = chooser.randrange(SIDE - size), chooser.randrange(SIDE - size)
        colour = [min(255, max(0, value + chooser.randrange(-15, 16))) for value in COLOURS[name]]
        ground = [grey + chooser.randrange(-10, 11) for _ in range(3)]
        (folder / f"{i}.png").write_bytes(png([
            [colour if left <= x < left + size and top <= y < top + size else ground for x in range(SIDE)]
            for y in range(SIDE)
        ]))
        turns = [{"from": "human", "value": "<image>\nWhich colour is the square?"}, {"from": "gpt", "value": name}]
        labels = {"colour": list(COLOURS).index(name)}
        samples.append({"image": f"{i}.png", "conversations": turns, "labels": labels})
    (folder / "data.json").write_text(json.dumps(samples))
    return ["--data", folder / "data.json", "--image-folder", folder]


def test_colours_of_squares(fastvlm, tmp_path):
    subprocess.run([BUILD / "tools" / "make_demo_model", tmp_path / "random", "demo"], check=True)
    learn, held_out = draw(tmp_path / "learn", 8000, 1), draw(tmp_path / "held_out", 400, 2)
    common = ["--resolution", SIDE, "--precision", "bf16", "--quiet"]

    def train(model, output, *options):
        result = fastvlm("train", "--model", model, "--output", output, "--save-steps", 0, *learn, *common, *options,
                         timeout=3600)
        assert result.code == 0, result.err

    train(tmp_path / "random", tmp_path / "tower", "--objective", "labels", "--batch-norm", "batch", "--lr", 2e-3,
          "--batch-size", 32, "--max-steps", 800)
    train(tmp_path / "tower", tmp_path / "named", "--lr", 1e-3, "--batch-size", 32, "--max-steps", 300)
    scores = fastvlm("eval", "--model", tmp_path / "named", "--max-tokens", 8, "--json", *held_out, *common).json
    print(scores)
    assert scores["accuracy"] >= 0.99
