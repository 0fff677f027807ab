"""Peer: PyTorch, eager, channels last: FastViTHD and the projector in fp32 or bf16, batch norm and layer scale folded."""

import torch
import torch.nn.functional as F

HEAD_DIM = 32
NORM_EPSILON = 1e-5


class Peer:
    version = torch.__version__

    def __init__(self, checkpoint, side, threads, precision):
        torch.set_num_threads(threads)
        self.checkpoint, self.tensors = checkpoint, {}
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.layers, self.mixers = checkpoint.arch["layers"], checkpoint.arch["token_mixers"]

    def make(self, name, array):
        """The tensor `name`, from `array()` the first time."""
        if name not in self.tensors:
            tensor = torch.from_numpy(array().copy()).to(self.dtype)
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.tensors[name] = tensor
        return self.tensors[name]

    def get(self, name):
        return self.make(name, lambda: self.checkpoint.vision(name))

    def conv(self, x, name, stride=1):
        weight, bias = self.get(name + ".weight"), self.get(name + ".bias")
        groups = 1 if weight.shape[1] > 1 or weight.shape[2] == 1 else x.shape[1]
        return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=groups)

    def mixing(self, x, name):
        """The depthwise 7x7 of a feed-forward block with its batch norm."""
        get = self.checkpoint.vision

        def gain():
            return get(name + ".bn.weight") / (get(name + ".bn.running_var") + NORM_EPSILON) ** 0.5

        weight = self.make(name, lambda: get(name + ".conv.weight") * gain()[:, None, None, None])
        bias = self.make(name + "+", lambda: get(name + ".bn.bias") - get(name + ".bn.running_mean") * gain())
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=x.shape[1])

    def feed_forward(self, x, name, scale):
        get = self.checkpoint.vision
        weight = self.make(name, lambda: get(name + ".fc2.weight") * get(scale).reshape(-1, 1, 1, 1))
        bias = self.make(name + "+", lambda: get(name + ".fc2.bias") * get(scale).reshape(-1))
        return F.conv2d(F.gelu(self.conv(self.mixing(x, name + ".conv"), name + ".fc1")), weight, bias)

    def attention(self, x, name):
        n, width, height, _ = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        tokens = F.layer_norm(tokens, (width,), self.get(name + ".norm.weight"), self.get(name + ".norm.bias"), NORM_EPSILON)
        qkv = F.linear(tokens, self.get(name + ".token_mixer.qkv.weight"))
        q, k, v = qkv.reshape(n, -1, 3, width // HEAD_DIM, HEAD_DIM).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, width)
        y = F.linear(y, self.get(name + ".token_mixer.proj.weight"), self.get(name + ".token_mixer.proj.bias"))
        y = y.transpose(1, 2).reshape(n, width, height, -1)
        return y * self.get(name + ".layer_scale_1")

    def tower(self, x):
        for index, stride in enumerate((2, 2, 1)):
            x = F.gelu(self.conv(x, f"patch_embed.{index}.reparam_conv", stride))
        part = 0
        for stage, depth in enumerate(self.layers):
            attends = self.mixers[stage] == "attention"
            if stage:
                x = F.gelu(self.conv(x, f"network.{part}.proj.0.lkb_reparam", 2))
                x = F.gelu(self.conv(x, f"network.{part}.proj.1.reparam_conv"))
                part += 1
            if attends:
                x = self.conv(x, f"network.{part}.reparam_conv")
                part += 1
            for index in range(depth):
                name = f"network.{part}.{index}"
                if attends:
                    x = x + self.attention(x, name)
                else:
                    x = self.conv(x, name + ".token_mixer.reparam_conv")
                x = x + self.feed_forward(x, name + ".convffn", name + (".layer_scale_2" if attends else ".layer_scale"))
            part += 1
        x = self.conv(x, "conv_exp.reparam_conv")
        gate = F.relu(self.conv(x.mean((2, 3), keepdim=True), "conv_exp.se.reduce"))
        x = F.gelu(x * torch.sigmoid(self.conv(gate, "conv_exp.se.expand")))
        return x.flatten(2).transpose(1, 2)

    def linear(self, x, name):
        parts = [f"model.mm_projector.{name}.{leaf}" for leaf in ("weight", "bias")]
        return F.linear(x, *(self.make(part, lambda part=part: self.checkpoint.tensor(part)) for part in parts))

    @torch.inference_mode()
    def encode(self, pixels):
        """pixels float32 [1, 3, S, S] in 0..1 -> {"features": [1, T, C], "projected": [1, T, hidden]}"""
        x = torch.from_numpy(pixels).to(self.dtype).contiguous(memory_format=torch.channels_last)
        features = self.tower(x)
        projected = self.linear(F.gelu(self.linear(features, 0)), 2)
        return {"features": features.float().numpy(), "projected": projected.float().numpy()}
