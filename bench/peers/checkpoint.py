"""Reads a LLaVA FastVLM checkpoint (safetensors, any float type) into float32 arrays, with numpy alone."""

import json
import pathlib
import struct

import numpy as np

PREFIX = "model.vision_tower.vision_tower.model."
FASTVITHD = {
    "layers": [2, 12, 24, 4, 2],
    "embed_dims": [96, 192, 384, 768, 1536],
    "token_mixers": ["repmixer", "repmixer", "repmixer", "attention", "attention"],
}


def to_float(dtype, raw):
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


class Checkpoint:
    """config and, by name, tensors: read when asked for, so that a big model's other half stays on the disk."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = json.loads((self.folder / "config.json").read_text())
        self.arch = self.config.get("mm_vision_arch", FASTVITHD)
        self.key = self.folder.resolve().name
        self.side = int(self.config["mm_vision_tower"].rsplit("_", 1)[-1])
        self.places = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.places[name] = (path, 8 + length, entry)

    def tensor(self, name):
        path, start, entry = self.places[name]
        begin, end = entry["data_offsets"]
        with open(path, "rb") as file:
            file.seek(start + begin)
            return to_float(entry["dtype"], file.read(end - begin)).reshape(entry["shape"])

    def vision(self, name):
        return self.tensor(PREFIX + name)
