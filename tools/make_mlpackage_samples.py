#!/usr/bin/env python3
"""Convert a very small FastViTHD tower with made-up weights into Core ML packages, each written down differently.

    tools/make_mlpackage_samples.py [--all OUT]

Without arguments it writes what tests/unit/test_mlpackage.c reads: tests/data/tower.safetensors (the weights under the
names of LLaVA checkpoints) and tests/data/tower_*.mlpackage. With --all it writes every variant it knows into OUT.
Needs torch, coremltools and safetensors; the results are committed, so that the tests need none of them.
"""
import argparse
import pathlib
import shutil

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"
PREFIX = "model.vision_tower.vision_tower.model."
LAYERS, WIDTHS, RATIO, ATTENTION = [1, 2, 1, 1, 1], [4, 8, 8, 32, 32], 2, [False, False, False, True, True]
SIZE = 128


class Named(nn.Module):
    """A convolution under the name that checkpoints give it."""

    def __init__(self, name, *args, **kwargs):
        super().__init__()
        self.name = name
        setattr(self, name, nn.Conv2d(*args, **kwargs))

    def forward(self, x):
        return getattr(self, self.name)(x)


def depthwise(name, width, out, kernel, stride=1):
    return Named(name, width, out, kernel, stride, kernel // 2, groups=width)


class ChannelNorm(nn.Module):
    """Layer norm over channels, written out as the published code does, or as PyTorch's own on permuted axes."""

    def __init__(self, width, own):
        super().__init__()
        self.weight, self.bias, self.own = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), own

    def forward(self, x):
        if self.own:
            return nn.functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias,
                                            1e-5).permute(0, 3, 1, 2)
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-5)
        return self.weight.unsqueeze(-1).unsqueeze(-1) * x + self.bias.unsqueeze(-1).unsqueeze(-1)


class Attention(nn.Module):
    def __init__(self, width, style):
        super().__init__()
        self.qkv, self.proj, self.style = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width), style

    def forward(self, x):
        b, c, h, w = (int(length) for length in x.shape)
        if self.style.get("conv_qkv"):
            qkv = nn.functional.conv2d(x, self.qkv.weight[:, :, None, None]).flatten(2).transpose(1, 2)
        elif self.style.get("matmul"):
            qkv = torch.matmul(x.flatten(2).transpose(1, 2), self.qkv.weight.t().contiguous())
        else:
            qkv = self.qkv(x.flatten(2).transpose(1, 2))
        q, k, v = qkv.reshape(b, h * w, 3, c // 32, 32).permute(2, 0, 3, 1, 4).unbind(0)
        if self.style.get("sdpa"):
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * 32 ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(b, h * w, c)
        if self.style.get("conv_qkv"):
            y = y.transpose(1, 2).reshape(b, c, h, w)
            return nn.functional.conv2d(y, self.proj.weight[:, :, None, None], self.proj.bias)
        return self.proj(y).transpose(1, 2).reshape(b, c, h, w)


class ConvFfn(nn.Module):
    def __init__(self, width, style):
        super().__init__()
        self.conv = nn.Sequential()
        self.conv.add_module("conv", nn.Conv2d(width, width, 7, 1, 3, groups=width, bias=False))
        self.conv.add_module("bn", nn.BatchNorm2d(width))
        self.fc1, self.fc2 = nn.Conv2d(width, RATIO * width, 1), nn.Conv2d(RATIO * width, width, 1)
        self.erf = style.get("erf")

    def forward(self, x):
        x = self.fc1(self.conv(x))
        x = 0.5 * x * (1 + torch.erf(x / 2 ** 0.5)) if self.erf else nn.functional.gelu(x)
        return self.fc2(x)


class MixerBlock(nn.Module):
    def __init__(self, width, style):
        super().__init__()
        self.token_mixer = depthwise("reparam_conv", width, width, 3)
        self.convffn = ConvFfn(width, style)
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        x = self.token_mixer(x)
        return x + self.layer_scale * self.convffn(x)


class AttentionBlock(nn.Module):
    def __init__(self, width, style):
        super().__init__()
        self.norm, self.token_mixer = ChannelNorm(width, style.get("own_norm")), Attention(width, style)
        self.convffn = ConvFfn(width, style)
        self.layer_scale_1 = nn.Parameter(torch.ones(width, 1, 1))
        self.layer_scale_2 = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        x = x + self.layer_scale_1 * self.token_mixer(self.norm(x))
        return x + self.layer_scale_2 * self.convffn(x)


class Downsample(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.proj = nn.Sequential(depthwise("lkb_reparam", width, out, 7, 2), Named("reparam_conv", out, out, 1))

    def forward(self, x):
        return nn.functional.gelu(self.proj[1](nn.functional.gelu(self.proj[0](x))))


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, width // 16, 1), nn.Conv2d(width // 16, width, 1)

    def forward(self, x):
        s = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(nn.functional.relu(self.reduce(s))))


class Expansion(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reparam_conv = nn.Conv2d(width, 2 * width, 3, 1, 1, groups=width)
        self.se = SqueezeExcite(2 * width)

    def forward(self, x):
        return nn.functional.gelu(self.se(self.reparam_conv(x)))


class Tower(nn.Module):
    def __init__(self, style):
        super().__init__()
        width = WIDTHS[0]
        self.patch_embed = nn.ModuleList([Named("reparam_conv", 3, width, 3, 2, 1),
                                          depthwise("reparam_conv", width, width, 3, 2),
                                          Named("reparam_conv", width, width, 1)])
        self.network = nn.ModuleList()
        for stage, width in enumerate(WIDTHS):
            if stage:
                self.network.append(Downsample(WIDTHS[stage - 1], width))
            if ATTENTION[stage]:
                self.network.append(depthwise("reparam_conv", width, width, 7))
            block = AttentionBlock if ATTENTION[stage] else MixerBlock
            self.network.append(nn.Sequential(*[block(width, style) for _ in range(LAYERS[stage])]))
        self.conv_exp = Expansion(WIDTHS[-1])

    def forward(self, x):
        for layer in self.patch_embed:
            x = nn.functional.gelu(layer(x))
        for layer in self.network:
            x = layer(x)
        return self.conv_exp(x).flatten(2).transpose(1, 2)


def fill(tower):
    """The same made-up weights for every variant; multiples of 1/256 survive fp16."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in sorted(tower.state_dict().items()):
        if tensor.dtype == torch.float32:
            values = torch.randint(-64, 65, tensor.shape, generator=generator) / 256
            positive = name.endswith(("running_var", "bn.weight", "norm.weight")) or "layer_scale" in name
            tensor.copy_(1 + values if positive else values)
    return tower.eval()


# name: how the tower is written, precision, passes left out, what is done to the weights
VARIANTS = {
    "fp32": ({}, "fp32", [], None),
    "fp16": ({}, "fp16", [], None),
    "plain": ({"own_norm": True, "sdpa": True, "erf": True}, "fp16",
              ["fuse_conv_batchnorm", "fuse_conv_scale", "fuse_gelu_exact", "fuse_elementwise_to_batchnorm"], None),
    "matmul": ({"matmul": True, "own_norm": True}, "fp16", ["fuse_matmul_weight_bias", "fuse_linear_bias"], None),
    "conv": ({"conv_qkv": True}, "fp16", ["fuse_elementwise_to_batchnorm"], None),
    "int8": ({}, "fp16", [], "int8"),
    "lut4": ({}, "fp16", [], "lut4"),
    "lut6": ({}, "fp32", [], "lut6"),
    "int4": ({}, "fp16", [], "int4"),
    "lut18": ({}, "fp16", [], "lut18"),
}
COMMITTED = ["matmul", "plain", "int8", "lut4"]


def convert(style, precision, without, target):
    tower = fill(Tower(style))
    pixels = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes({f"common::{name}" for name in without})
    return ct.convert(torch.jit.trace(tower, pixels), inputs=[ct.TensorType("images", pixels.shape)],
                      outputs=[ct.TensorType("image_features", dtype=np.float32)], convert_to="mlprogram",
                      minimum_deployment_target=target, pass_pipeline=pipeline, skip_model_load=True,
                      compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32)


def compress(model, how):
    if how in ("int8", "int4"):
        config = cto.OpLinearQuantizerConfig(mode="linear_symmetric" if how == "int4" else "linear", dtype=how,
                                             granularity="per_block" if how == "int4" else "per_channel",
                                             block_size=8 if how == "int4" else 32, weight_threshold=64)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))
    granularity = dict(granularity="per_grouped_channel", group_size=4) if how == "lut18" else {}
    config = cto.OpPalettizerConfig(mode="uniform", nbits=6 if how == "lut6" else 4, weight_threshold=64, **granularity)
    return cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))


def write(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + name: tensor.half() for name, tensor in fill(Tower({})).state_dict().items()
               if not name.endswith("num_batches_tracked")}
    save_file(tensors, folder / "tower.safetensors")
    for name in names:
        style, precision, without, how = VARIANTS[name]
        newer = how in ("int4", "lut18") or style.get("sdpa")
        model = convert(style, precision, without, ct.target.iOS18 if newer else ct.target.iOS16)
        if how:
            model = compress(model, how)
        path = folder / f"tower_{name}.mlpackage"
        shutil.rmtree(path, ignore_errors=True)
        model.save(str(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=pathlib.Path, metavar="OUT", help="write every variant into OUT")
    options = parser.parse_args()
    write(options.all or DATA, VARIANTS if options.all else COMMITTED)


if __name__ == "__main__":
    main()
