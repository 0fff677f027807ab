"""Operations and weights of the stages, counted from the shapes: a multiplication and its addition are two."""

FASTVITHD = ([2, 12, 24, 4, 2], [96, 192, 384, 768, 1536])
ATTENTION_STAGES, RATIO, STRIDE = (3, 4), 4, 64
QWEN2_05B = {"hidden": 896, "ffn": 4864, "layers": 24, "keys": 128, "vocabulary": 151936}
BITS = {"bf16": (16, 16), "q8_0": (8.5, 8.5), "q4_0": (4.5, 8.5)}  # a weight of the layers, one of the tied embedding


class Tower:
    """FastViTHD over side x side pixels, without the projector."""

    def __init__(self, side):
        layers, widths = FASTVITHD
        self.operations = self.parameters = 0
        place = side // 2
        self.conv(place, 96, 3, 3)
        place //= 2
        self.conv(place, 96, 1, 3)
        self.conv(place, 96, 96, 1)
        for stage, (depth, width) in enumerate(zip(layers, widths)):
            if stage:
                place //= 2
                self.conv(place, width, 1, 7)
                self.conv(place, width, width, 1)
            if stage in ATTENTION_STAGES:
                self.conv(place, width, 1, 7)
            for _ in range(depth):
                if stage in ATTENTION_STAGES:
                    self.conv(place, 3 * width, width, 1)
                    self.conv(place, width, width, 1)
                    self.operations += 4 * place**4 * width
                else:
                    self.conv(place, width, 1, 3)
                self.conv(place, width, 1, 7)
                self.conv(place, RATIO * width, width, 1)
                self.conv(place, width, RATIO * width, 1)
        width = 2 * widths[-1]
        self.conv(place, width, 1, 3)
        self.conv(1, width // 16, width, 1)
        self.conv(1, width, width // 16, 1)

    def conv(self, place, out, inputs, kernel):
        """place x place outputs of `out` channels, each from `inputs` channels of its group."""
        weights = out * inputs * kernel * kernel
        self.operations += 2 * weights * place * place
        self.parameters += weights + out


def decoder_weights(kind):
    """(weights of the layers, bytes that a decoded token reads) of the 0.5B model with weights of type `kind`."""
    s = QWEN2_05B
    layer = s["hidden"] * (2 * s["hidden"] + 2 * s["keys"] + 3 * s["ffn"])
    layers, embedding = s["layers"] * layer, s["vocabulary"] * s["hidden"]
    return layers, (layers * BITS[kind][0] + embedding * BITS[kind][1]) / 8


def prefill_operations(tokens):
    s = QWEN2_05B
    attention = 2 * 2 * tokens * tokens / 2 * s["hidden"] * s["layers"]  # each looks at those before it
    return 2 * decoder_weights("bf16")[0] * tokens + attention + 2 * s["vocabulary"] * s["hidden"]
