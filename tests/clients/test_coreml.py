"""`fastvlm export coreml`: coremltools loads, type-checks and rewrites the package; its program, run by the interpreter
of tools/oracle_mil.py, gives our features; our loader reads both the package and what coremltools makes of it."""

import pathlib
import shutil
import sys

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.frontend.milproto.load import load as load_program

from conftest import full_expected
from golden_set import SHARED, compare, trace

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

from oracle_mil import Package  # noqa: E402

BARS = {"f32": 1e-5, "f16": 2e-3}


def check_package(path, sizes, tokens):
    """Every operation has inputs of the types it takes and the result that it says; the interface is as documented."""
    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    assert spec.specificationVersion == 7  # iOS 16
    assert spec.mlProgram.functions["main"].opset == "CoreML6"
    (images,), (features,) = spec.description.input, spec.description.output
    assert (images.name, features.name) == ("images", "image_features")
    assert list(images.type.multiArrayType.shape) == [1, 3, sizes[0], sizes[0]]
    flexible = [list(shape.shape) for shape in images.type.multiArrayType.enumeratedShapes.shapes]
    assert flexible == ([[1, 3, size, size] for size in sizes] if len(sizes) > 1 else [])
    if len(sizes) == 1:
        assert list(features.type.multiArrayType.shape) == tokens
    program = load_program(spec, spec.specificationVersion, model.weights_dir)
    block = spec.mlProgram.functions["main"].block_specializations["CoreML6"]
    said = {output.name: output.type.tensorType for operation in block.operations for output in operation.outputs}
    checked = 0
    for operation in program.functions["main"].operations:
        for value in operation.outputs:
            if operation.op_type == "const" or value.name not in said:
                continue
            dimensions = [d.constant.size if d.WhichOneof("dimension") == "constant" else None
                          for d in said[value.name].dimensions]
            assert len(dimensions) == len(value.shape), value.name
            for ours, theirs in zip(dimensions, value.shape):
                assert ours is None or ours == theirs, (value.name, dimensions, value.shape)
            checked += 1
    assert checked > 50
    return program


def run_program(path, pixels):
    """Features [tokens, channels] of u8 pixels [S, S, 3]."""
    images = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    return Package(path).run(images)[0].numpy()


def features(model, image, out, *options):
    traced = trace(model, [image], "?", out, *options)
    return traced["pixels"], traced["features"][0]


def with_package(export, model, package, folder):
    """Apple's layout with another package for its tower."""
    shutil.copytree(export("mlx", model, "--type", "f32"), folder)
    shutil.rmtree(folder / "fastvithd.mlpackage")
    shutil.copytree(package, folder / "fastvithd.mlpackage")
    return folder


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("layout", ["llava", "hf", "apple_fp16"])
def test_program_gives_our_features(golden, export, tmp_path, layout, kind):
    model, image = golden.folder / layout, golden.images / golden.staged()
    package = export("coreml", model, "--type", kind)
    pixels, ours = features(model, image, tmp_path / "trace")
    check_package(package, [pixels.shape[0]], [1, *ours.shape])
    compare(f"{layout} {kind}", run_program(package, pixels), ours, relative_l2=BARS[kind])
    _, read = features(with_package(export, model, package, tmp_path / "ours"), image, tmp_path / "read")
    compare(f"{layout} {kind}, read back", read, ours, relative_l2=BARS[kind])


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_what_coremltools_rewrites_is_the_same_model(golden, export, tmp_path, kind):
    model, image = golden.folder / "llava", golden.images / golden.staged()
    package = export("coreml", model, "--type", kind)
    pixels, ours = features(model, image, tmp_path / "trace")
    program = check_package(package, [pixels.shape[0]], [1, *ours.shape])
    passes = ct.PassPipeline.DEFAULT
    if kind == "f16":  # coremltools 9 gives batch norms that it makes of fp16 products fp32 constants, and refuses them
        passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    rewritten = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16,
                           skip_model_load=True, pass_pipeline=passes, compute_precision=ct.precision.FLOAT32)
    rewritten.save(str(tmp_path / "rewritten.mlpackage"))
    compare(f"{kind}, rewritten", run_program(tmp_path / "rewritten.mlpackage", pixels), ours, relative_l2=BARS[kind])
    folder = with_package(export, model, tmp_path / "rewritten.mlpackage", tmp_path / "theirs")
    _, read = features(folder, image, tmp_path / "read")
    compare(f"{kind}, rewritten and read", read, ours, relative_l2=BARS[kind])


def test_several_sizes(golden, export, tmp_path):
    model, image = golden.folder / "llava", golden.images / golden.staged()
    package = export("coreml", model, "--type", "f32", "--size", 192, "--size", 64, "--size", 320)
    check_package(package, [192, 64, 320], None)
    for size in (192, 64, 320):
        pixels, ours = features(model, image, tmp_path / "trace", "--resolution", size)
        compare(f"{size} pixels", run_program(package, pixels), ours, relative_l2=BARS["f32"])
    _, read = features(with_package(export, model, package, tmp_path / "ours"), image, tmp_path / "read")
    _, ours = features(model, image, tmp_path / "trace")
    compare("read back", read, ours, relative_l2=BARS["f32"])


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_weights_of_8_bits(golden, export, tmp_path, kind):
    model, image = golden.folder / "llava", golden.images / golden.staged()
    package = export("coreml", model, "--type", kind, "--bits", 8)
    pixels, exact = features(model, image, tmp_path / "trace")
    check_package(package, [pixels.shape[0]], [1, *exact.shape])
    blocks = ct.models.MLModel(str(package), skip_model_load=True).get_spec().mlProgram.functions["main"]
    packed = [operation for operation in blocks.block_specializations["CoreML6"].operations
              if operation.type == "constexpr_affine_dequantize"]
    assert packed
    run = run_program(package, pixels)
    compare(f"8 bits, {kind}, against exact weights", run, exact, relative_l2=0.05)
    _, read = features(with_package(export, model, package, tmp_path / "ours"), image, tmp_path / "read")
    compare(f"8 bits, {kind}, read back", read, run, relative_l2=1e-5)


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_full_size(full_model, export, tmp_path, kind):
    expected, values = full_expected()
    package = export("coreml", full_model, "--type", kind)
    image = SHARED / "fixtures" / "images" / expected["image"]
    pixels, ours = features(full_model, image, tmp_path / "trace")
    check_package(package, [1024], [1, 256, 3072])
    run = run_program(package, pixels)
    compare(f"full size, {kind}", run, ours, relative_l2=BARS[kind])
    compare(f"full size, {kind}, published", run, values["features"], relative_l2=max(BARS[kind], 1e-3))
