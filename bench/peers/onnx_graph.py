"""Writes the FastViTHD tower and the projector of a checkpoint as an ONNX graph, float32.

pixels [1, 3, S, S] in 0..1 -> features [1, (S / 64)^2, C] and projected [1, (S / 64)^2, hidden]. Batch norm and layer
scale are folded into the convolutions and matrices beside them, so that a runtime starts from the same arithmetic as
this project's own kernels. Operators of opset 20: exact Gelu and LayerNormalization are single nodes.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

HEAD_DIM = 32
NORM_EPSILON = 1e-5  # of batch norm and layer norm
OPSET = 20


class Graph:
    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.nodes, self.weights = [], []

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operation, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operation, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, weight, bias, stride=1):
        """weight [outputs, inputs / groups, k, k]; grouped as deep as its shape says (see callers)."""
        kernel = weight.shape[2]
        groups = 1 if weight.shape[1] > 1 or kernel == 1 else self.width
        pads = [kernel // 2] * 4
        y = self.node(
            "Conv",
            x,
            self.constant(weight),
            self.constant(bias),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=pads,
            group=groups,
        )
        self.width = weight.shape[0]
        return y

    def merged(self, x, name, stride=1, act=True):
        x = self.conv(x, self.checkpoint.vision(name + ".weight"), self.checkpoint.vision(name + ".bias"), stride)
        return self.node("Gelu", x) if act else x

    def convffn(self, x, name, scale):
        """Depthwise 7x7 with its batch norm, 1x1, Gelu, 1x1 with the block's layer scale."""
        get = self.checkpoint.vision
        bn = {leaf: get(f"{name}.conv.bn.{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var")}
        gain = bn["weight"] / np.sqrt(bn["running_var"] + np.float32(NORM_EPSILON))
        weight = get(name + ".conv.conv.weight") * gain[:, None, None, None]
        x = self.conv(x, weight, bn["bias"] - bn["running_mean"] * gain)
        x = self.node("Gelu", self.conv(x, get(name + ".fc1.weight"), get(name + ".fc1.bias")))
        scale = scale.reshape(-1)
        return self.conv(x, get(name + ".fc2.weight") * scale[:, None, None, None], get(name + ".fc2.bias") * scale)

    def attention(self, x, name, side, scale):
        """x [1, C, side, side] -> the scaled output of multi-head attention over layer-normed tokens, same shape."""
        get, width, tokens = self.checkpoint.vision, self.width, side * side
        heads = width // HEAD_DIM
        x = self.node("Reshape", x, self.constant(np.array([1, width, tokens])))
        x = self.node("Transpose", x, perm=[0, 2, 1])
        norm = self.constant(get(name + ".norm.weight")), self.constant(get(name + ".norm.bias"))
        x = self.node("LayerNormalization", x, *norm, epsilon=NORM_EPSILON, axis=-1)
        qkv = get(name + ".token_mixer.qkv.weight").copy()
        qkv[:width] *= np.float32(HEAD_DIM**-0.5)
        shape = self.constant(np.array([1, tokens, heads, HEAD_DIM]))
        parts = []
        for index, order in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
            part = self.node("MatMul", x, self.constant(qkv[index * width : (index + 1) * width].T))
            parts.append(self.node("Transpose", self.node("Reshape", part, shape), perm=order))
        weights = self.node("Softmax", self.node("MatMul", parts[0], parts[1]), axis=-1)
        x = self.node("Transpose", self.node("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
        x = self.node("Reshape", x, self.constant(np.array([1, tokens, width])))
        scale = scale.reshape(-1)
        x = self.node("MatMul", x, self.constant((get(name + ".token_mixer.proj.weight") * scale[:, None]).T))
        x = self.node("Add", x, self.constant(get(name + ".token_mixer.proj.bias") * scale))
        x = self.node("Transpose", x, perm=[0, 2, 1])
        return self.node("Reshape", x, self.constant(np.array([1, width, side, side])))

    def block(self, x, name, attends, side):
        get = self.checkpoint.vision
        if attends:
            x = self.node("Add", x, self.attention(x, name, side, get(name + ".layer_scale_1")))
            scale = get(name + ".layer_scale_2")
        else:
            x = self.merged(x, name + ".token_mixer.reparam_conv", act=False)
            scale = get(name + ".layer_scale")
        return self.node("Add", x, self.convffn(x, name + ".convffn", scale))

    def tower(self, x, side):
        """pixels -> features [1, tokens, C]."""
        self.width = 3
        for index, stride in enumerate((2, 2, 1)):
            x = self.merged(x, f"patch_embed.{index}.reparam_conv", stride)
        side, part = side // 4, 0
        for stage, depth in enumerate(self.checkpoint.arch["layers"]):
            attends = self.checkpoint.arch["token_mixers"][stage] == "attention"
            if stage:
                x = self.merged(x, f"network.{part}.proj.0.lkb_reparam", 2)
                x = self.merged(x, f"network.{part}.proj.1.reparam_conv")
                side, part = side // 2, part + 1
            if attends:
                x = self.merged(x, f"network.{part}.reparam_conv", act=False)
                part += 1
            for index in range(depth):
                x = self.block(x, f"network.{part}.{index}", attends, side)
            part += 1
        x = self.merged(x, "conv_exp.reparam_conv", act=False)
        gate = self.node("GlobalAveragePool", x)
        gate = self.node("Relu", self.merged(gate, "conv_exp.se.reduce", act=False))
        gate = self.node("Sigmoid", self.merged(gate, "conv_exp.se.expand", act=False))
        x = self.node("Gelu", self.node("Mul", x, gate))
        x = self.node("Reshape", x, self.constant(np.array([1, self.width, side * side])))
        return self.node("Transpose", x, perm=[0, 2, 1]), side * side

    def linear(self, x, name):
        weight = self.checkpoint.tensor(f"model.mm_projector.{name}.weight")
        x = self.node("MatMul", x, self.constant(weight.T))
        return self.node("Add", x, self.constant(self.checkpoint.tensor(f"model.mm_projector.{name}.bias")))


def build(checkpoint, side):
    """The serialised model."""
    graph = Graph(checkpoint)
    features, tokens = graph.tower("pixels", side)
    projected = graph.linear(graph.node("Gelu", graph.linear(features, 0)), 2)
    graph.nodes.append(helper.make_node("Identity", [features], ["features"]))
    graph.nodes.append(helper.make_node("Identity", [projected], ["projected"]))
    hidden = checkpoint.config["hidden_size"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "fastvithd",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, side, side])],
            [
                helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, tokens, graph.width]),
                helper.make_tensor_value_info("projected", TensorProto.FLOAT, [1, tokens, hidden]),
            ],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = 9
    return model.SerializeToString()
