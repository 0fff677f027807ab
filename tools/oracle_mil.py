"""Runs the program of a Core ML package in float32, as the reference for what its weights mean.

Core ML itself runs on Apple systems only. The package's model.mlmodel is a protobuf with one function, a list of
operations over named values; weights lie in weights/weight.bin at the offsets it gives. Only the operations that a
traced FastViTHD has are known here; an unknown one is an error. fp16 values are widened, so that only their rounding
remains; 8-bit weights are unpacked: images [1, 3, S, S] -> image_features [1, tokens, channels].
"""

import struct

import numpy as np
import torch
import torch.nn.functional as F

ATTENTION_SCALE = 32**-0.5
BLOB_SENTINEL = 0xDEADBEEF
TYPES = {10: np.float16, 11: np.float32, 21: np.int8, 23: np.int32, 31: np.uint8}  # MIL's DataType
BLOB_TYPES = {1: np.float16, 2: np.float32, 3: np.uint8, 4: np.int8}  # MILBlob's numbering


def blob(data, offset):
    sentinel, kind, size, start = struct.unpack_from("<IIQQ", data, offset)
    assert sentinel == BLOB_SENTINEL, hex(sentinel)
    return np.frombuffer(data, BLOB_TYPES[kind], size // np.dtype(BLOB_TYPES[kind]).itemsize, start)


def value_of(value, blobs):
    """The constant in a protobuf Value: a str, a float32 tensor, or an array of integers or booleans."""
    kind = value.type.tensorType
    shape = [dimension.constant.size for dimension in kind.dimensions]
    if value.WhichOneof("value") == "blobFileValue":
        array = blob(blobs, value.blobFileValue.offset)
    else:
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field == "strings":
            return tensor.strings.values[0]
        array = tensor.bytes.values if field == "bytes" else np.array(getattr(tensor, field).values)
        if field == "bytes":
            array = np.frombuffer(array, TYPES[kind.dataType])
    array = np.array(array).reshape(shape)
    if array.dtype == np.float16 and array.shape == () and array == np.float16(ATTENTION_SCALE):
        return torch.tensor(ATTENTION_SCALE)  # part of the architecture, which an fp16 program only rounds
    return torch.from_numpy(array.astype(np.float32)) if array.dtype.kind == "f" else array


def ints(value):
    return [int(n) for n in np.atleast_1d(value)]


def conv(x, weight, pad, strides, groups, dilations, pad_type, bias=None):
    assert set(ints(dilations)) == {1}
    padding = ints(pad) if pad_type == "custom" else [0, 0, 0, 0]
    assert pad_type in ("custom", "valid"), pad_type
    top, bottom, left, right = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, ints(strides), groups=ints(groups)[0])


def avg_pool(
    x, kernel_sizes, strides=None, pad_type="valid", pad=None, exclude_padding_from_average=None, ceil_mode=None
):
    assert pad is None or not any(ints(pad))
    return F.avg_pool2d(x, ints(kernel_sizes), ints(strides))


def gelu(x, mode):
    assert mode == "EXACT", mode
    return F.gelu(x)


def batch_norm(x, mean, variance, gamma, beta, epsilon):
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, float(epsilon))


def matmul(x, y, transpose_x=False, transpose_y=False):
    return (x.transpose(-1, -2) if transpose_x else x) @ (y.transpose(-1, -2) if transpose_y else y)


def squeeze(x, axes):
    for axis in sorted(ints(axes), reverse=True):
        x = x.squeeze(axis)
    return x


def constexpr_affine_dequantize(quantized_data, zero_point, scale, axis):
    shape = [-1 if i == int(axis) else 1 for i in range(quantized_data.ndim)]
    difference = quantized_data.astype(np.int32) - np.asarray(zero_point, np.int32).reshape(-1)[0]
    return torch.from_numpy(difference.astype(np.float32)) * scale.reshape(shape)


OPERATIONS = {
    "conv": conv,
    "avg_pool": avg_pool,
    "gelu": gelu,
    "batch_norm": batch_norm,
    "matmul": matmul,
    "squeeze": squeeze,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "pow": lambda x, y: x**y,
    "real_div": lambda x, y: x / y,
    "sqrt": lambda x: x.sqrt(),
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "softmax": lambda x, axis: x.softmax(ints(axis)[0]),
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(ints(axes), keepdim=bool(keep_dims)),
    "shape": lambda x: np.array(x.shape),
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "reshape": lambda x, shape: x.reshape(ints(shape)),
    "transpose": lambda x, perm: x.permute(ints(perm)),
    "split": lambda x, split_sizes, axis: x.split(ints(split_sizes), ints(axis)[0]),
    "cast": lambda x, dtype: x,
}


class Package:
    def __init__(self, path):
        from coremltools.proto import Model_pb2

        data = path / "Data" / "com.apple.CoreML"
        model = Model_pb2.Model()
        model.ParseFromString((data / "model.mlmodel").read_bytes())
        function = model.mlProgram.functions["main"]
        self.block = function.block_specializations[function.opset]
        self.blobs = (data / "weights" / "weight.bin").read_bytes()

    def run(self, images):
        values = {"images": images}
        for operation in self.block.operations:
            names = [output.name for output in operation.outputs]
            if operation.type == "const":
                values[names[0]] = value_of(operation.attributes["val"], self.blobs)
                continue
            inputs = {
                key: values[argument.arguments[0].name]
                if argument.arguments[0].WhichOneof("binding") == "name"
                else value_of(argument.arguments[0].value, self.blobs)
                for key, argument in operation.inputs.items()
            }
            if operation.type.startswith("constexpr_"):
                inputs = {key: value_of(value, self.blobs) for key, value in operation.attributes.items() if key != "name"}
            with torch.no_grad():
                result = OPERATIONS[operation.type](**inputs)
            if operation.type.startswith("constexpr_") and operation.outputs[0].type.tensorType.dataType == 10:
                result = result.half().float()  # weights are unpacked before the program runs
            values.update(zip(names, result if isinstance(result, tuple) else (result,)))
        return values[self.block.outputs[0]]
