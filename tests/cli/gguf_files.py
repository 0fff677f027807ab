"""A small reader of GGUF files, written from the format's text: metadata, tensors, their bytes."""
import struct

import numpy as np

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# number: name, elements of a block, bytes of it
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144),
         24: ("I8", 1, 1), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 30: ("BF16", 1, 2)}


class Gguf:
    """values: key -> value; tensors: name -> (type, shape outermost first, bytes)."""

    def __init__(self, path):
        self.data = path.read_bytes()
        self.at = 0
        assert self.take(4) == b"GGUF" and self.number("<I") == 3
        tensors, values = self.number("<Q"), self.number("<Q")
        self.values = {self.text(): self.value(self.number("<I")) for _ in range(values)}
        assert len(self.values) == values
        entries = [self.entry() for _ in range(tensors)]
        start = (self.at + 31) // 32 * 32
        self.tensors = {}
        end = 0
        for name, shape, number, offset in entries:
            kind, block, size = TYPES[number]
            count = int(np.prod(shape, dtype=np.int64))
            assert offset == (end + 31) // 32 * 32 and count % block == 0
            end = offset + count // block * size
            assert len(name) < 64 and name not in self.tensors
            self.tensors[name] = (kind, shape, self.data[start + offset:start + end])
        assert len(self.data) == start + (end + 31) // 32 * 32

    def take(self, count):
        assert self.at + count <= len(self.data)
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return self.take(self.number("<Q")).decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            items = self.number("<I")
            return [self.value(items) for _ in range(self.number("<Q"))]
        return self.number(SCALARS[kind])

    def entry(self):
        name = self.text()
        shape = [self.number("<Q") for _ in range(self.number("<I"))][::-1]
        return name, tuple(shape), self.number("<I"), self.number("<Q")

    def floats(self, name):
        """The values of a tensor as float32, blocks unpacked by the rules of their types."""
        kind, shape, data = self.tensors[name]
        raw = np.frombuffer(data, np.uint8)
        if kind in ("F32", "F16", "F64"):
            return raw.view({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[kind]).astype(np.float32).reshape(shape)
        if kind == "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
        block, size = next((block, size) for name, block, size in TYPES.values() if name == kind)
        raw = raw.reshape(-1, size)
        step = raw[:, :2].copy().view("<f2").astype(np.float32)
        if kind == "Q8_0":
            return (step * raw[:, 2:].view(np.int8)).reshape(shape)
        low, high = raw[:, -block // 2:] & 15, raw[:, -block // 2:] >> 4
        if kind == "Q4_0":
            return (step * (np.concatenate([low, high], 1).astype(np.float32) - 8)).reshape(shape)
        assert kind == "Q4_K"
        packed, dmin = raw[:, 4:16], raw[:, 2:4].copy().view("<f2").astype(np.float32)
        a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
        scales = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], 1)
        least = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], 1)
        q = np.stack([low.reshape(-1, 4, 32), high.reshape(-1, 4, 32)], 2).reshape(-1, 8, 32)
        return ((step * scales)[:, :, None] * q - (dmin * least)[:, :, None]).astype(np.float32).reshape(shape)
