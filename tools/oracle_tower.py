"""FastViTHD in plain torch under the names of LLaVA checkpoints, its made-up weights, and its Core ML package.

The golden set's numbers come from transformers and timm; this second form of the same tower exists because Apple's
package is traced from the published module structure, not from timm's. oracle.py checks that both forms agree.

An architecture is a dict: layers, embed_dims, mlp_ratio, token_mixers (as `mm_vision_arch` in config.json).
Shapes: pixels [tiles, 3, S, S] in 0..1 -> features [tiles, (S / 64)^2, 2 * embed_dims[-1]].
"""

import zlib

import numpy as np
import torch
from torch import nn

HEAD_DIM = 32
PREFIX = "model.vision_tower.vision_tower.model."


class Merged(nn.Module):
    """A convolution whose branches were merged: the published name of its only child differs by place."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, act=True, child="reparam_conv"):
        super().__init__()
        self.child = child
        self.add_module(child, nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups))
        self.act = nn.GELU() if act else nn.Identity()

    def forward(self, x):
        return self.act(getattr(self, self.child)(x))


class ConvFfn(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.conv = nn.Sequential()
        self.conv.add_module("conv", nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False))
        self.conv.add_module("bn", nn.BatchNorm2d(width))
        self.fc1 = nn.Conv2d(width, ratio * width, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(ratio * width, width, 1)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(self.conv(x))))


class MixerBlock(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.token_mixer = Merged(width, width, 3, groups=width, act=False)
        self.convffn = ConvFfn(width, ratio)
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        x = self.token_mixer(x)
        return x + self.layer_scale * self.convffn(x)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [tiles, C, H, W]."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-5)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = width // HEAD_DIM
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        tiles, width, rows, columns = (int(n) for n in x.shape)  # plain numbers: the trace then has fixed shapes
        tokens = rows * columns
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).reshape(tiles, tokens, 3, self.heads, HEAD_DIM)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((query * HEAD_DIM**-0.5) @ key.transpose(-2, -1)).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(tiles, tokens, width)
        return self.proj(mixed).transpose(1, 2).reshape(tiles, width, rows, columns)


class AttentionBlock(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.token_mixer = Attention(width)
        self.convffn = ConvFfn(width, ratio)
        self.layer_scale_1 = nn.Parameter(torch.ones(width, 1, 1))
        self.layer_scale_2 = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        x = x + self.layer_scale_1 * self.token_mixer(self.norm(x))
        return x + self.layer_scale_2 * self.convffn(x)


class Downsample(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.proj = nn.Sequential(
            Merged(inputs, outputs, 7, stride=2, groups=inputs, child="lkb_reparam"), Merged(outputs, outputs, 1)
        )

    def forward(self, x):
        return self.proj(x)


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 16, 1)
        self.expand = nn.Conv2d(width // 16, width, 1)

    def forward(self, x):
        gate = nn.functional.avg_pool2d(x, (int(x.shape[2]), int(x.shape[3])))
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(gate))))


class Expand(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reparam_conv = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.se = SqueezeExcite(2 * width)

    def forward(self, x):
        return nn.functional.gelu(self.se(self.reparam_conv(x)))


class Tower(nn.Module):
    def __init__(self, arch):
        super().__init__()
        widths = arch["embed_dims"]
        stem = widths[0]
        self.patch_embed = nn.Sequential(
            Merged(3, stem, 3, stride=2), Merged(stem, stem, 3, stride=2, groups=stem), Merged(stem, stem, 1)
        )
        network = []
        for stage, (depth, width) in enumerate(zip(arch["layers"], widths)):
            attends = arch["token_mixers"][stage] == "attention"
            if stage:
                network.append(Downsample(widths[stage - 1], width))
            if attends:
                network.append(Merged(width, width, 7, groups=width, act=False))
            block = AttentionBlock if attends else MixerBlock
            network.append(nn.Sequential(*(block(width, arch["mlp_ratio"]) for _ in range(depth))))
        self.network = nn.ModuleList(network)
        self.conv_exp = Expand(widths[-1])

    def stages(self, x):
        """Every stage's output by the name that `fastvlm trace` gives it."""
        x = self.patch_embed(x)
        outputs = {"vision.stem": x}
        for index, part in enumerate(self.network):
            x = part(x)
            outputs[f"vision.network.{index}"] = x
        outputs["features"] = self.conv_exp(x).flatten(2).transpose(1, 2)
        return outputs

    def forward(self, x):
        return self.stages(x)["features"]


def exact_in_half(values):
    """Round to what fp32, bf16 and fp16 all hold, so that one model can be stored in any of them without loss."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    rounded = np.where(np.abs(rounded) < 2.0**-16, np.float32(0), rounded)  # below, fp16 loses bits that bf16 has
    assert (rounded.astype(np.float16).astype(np.float32) == rounded).all()
    return rounded


def made_up(name, shape, seed):
    """A parameter's value: a fixed function of its LLaVA name, shape and the seed; sizes keep activations near one."""
    draw = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), seed])).standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    if leaf == "running_var":
        value = 0.6 + 0.3 * np.abs(draw)
    elif leaf == "running_mean":
        value = 0.2 * draw
    elif leaf.startswith("layer_scale"):
        value = 0.3 + 0.1 * draw
    elif len(shape) == 1 and leaf == "weight":
        value = 1 + 0.2 * draw
    elif leaf == "bias":
        value = 0.1 * draw
    elif leaf in ("image_newline",) or "embed_tokens" in name or "lm_head" in name:
        value = 0.3 * draw
    else:
        value = draw * (1.6 if len(shape) == 4 else 1.2) / np.sqrt(fan_in)
        if (
            shape[-1] in (3, 7)
            and len(shape) == 4
            and (".token_mixer." in name or name.endswith("reparam_conv.weight"))
        ):
            if shape[1] == 1 and "patch_embed" not in name and "conv_exp" not in name:  # its skip lies in the kernel
                value = 0.4 * value
                value[..., shape[-1] // 2, shape[-1] // 2] += 1
    return exact_in_half(value)


def tower_weights(arch, seed):
    """Name (without PREFIX) -> float32 array, for every parameter and statistic of the tower."""
    weights = {}
    for name, tensor in Tower(arch).state_dict().items():
        if not name.endswith("num_batches_tracked"):
            weights[name] = made_up(PREFIX + name, tuple(tensor.shape), seed)
    return weights


def load_tower(arch, weights):
    tower = Tower(arch)
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = tower.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return tower.eval()


def timm_name(name):
    """The timm name of a LLaVA tower parameter, given the architecture's stage layout (see timm_names)."""
    return (
        name.replace("lkb_reparam", "reparam_conv")
        .replace("convffn.", "mlp.")
        .replace("conv_exp.se.reduce", "final_conv.se.fc1")
        .replace("conv_exp.se.expand", "final_conv.se.fc2")
        .replace("conv_exp.", "final_conv.")
        .replace("patch_embed.", "stem.")
    )


def timm_names(arch, names):
    """LLaVA tower name -> timm name. `network` counts downsamples, position encodings and stages in order."""
    parts = []
    for stage, mixer in enumerate(arch["token_mixers"]):
        if stage:
            parts.append(f"stages.{stage}.downsample.")
        if mixer == "attention":
            parts.append(f"stages.{stage}.pos_emb.")
        parts.append(f"stages.{stage}.blocks.")
    renamed = {}
    for name in names:
        new = timm_name(name)
        if new.startswith("network."):
            _, index, rest = new.split(".", 2)
            new = parts[int(index)] + rest
        leaf = new.rsplit(".", 1)[-1]
        renamed[name] = new + ".gamma" if leaf.startswith("layer_scale") else new
    return renamed


class Published(nn.Module):
    """What is traced for the package: the tower below the attributes that Apple's export has."""

    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def forward(self, images):
        return self.tower(images)


def write_mlpackage(tower, side, path, half):
    """Trace `tower` at [1, 3, side, side] and save it as a Core ML package; half: fp16 weights and arithmetic."""
    import coremltools as ct

    example = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        traced = torch.jit.trace(Published(tower).eval(), example)
    package = ct.convert(
        traced,
        inputs=[ct.TensorType(name="images", shape=example.shape, dtype=np.float32)],
        outputs=[ct.TensorType(name="image_features", dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
    )
    package.save(str(path))
