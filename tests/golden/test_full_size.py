"""The full-size 0.5B model against the published code: the checkpoint of ../shared/tools/make_checkpoint.py and the
expected values in ../shared/fixtures/full_0.5b. The checkpoint (1.2 GB) is written to the build folder once."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from golden_set import BUILD, SHARED, compare, feature_errors, predict, read_safetensors, run, trace

FOLDER = SHARED / "fixtures" / "full_0.5b"
BAR = 1e-3
SURE = 0.02  # a token that led by less may flip, and then the rest of the answer with it


@pytest.fixture(scope="module")
def checkpoint():
    folder = pathlib.Path(os.environ.get("FVLM_FULL_MODEL", BUILD / "full_0.5b"))
    if not (folder / "tokenizer.json").exists():  # make_checkpoint writes it last
        subprocess.run([sys.executable, SHARED / "tools" / "make_checkpoint.py", "0.5b", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text())


def test_numbers(checkpoint, expected, tmp_path):
    values = read_safetensors(FOLDER / "expected.safetensors")
    image = SHARED / "fixtures" / "images" / expected["image"]
    out = tmp_path / "trace.safetensors"
    got = trace(checkpoint, [image], expected["question"], out)
    out.unlink()  # 170 MB
    stages = sorted({int(key.split(".")[1]) for key in values if key.startswith("network.")})
    for stage in stages:
        tensor = got[f"vision.network.{stage}"][0]  # [channels, rows, columns]
        compare(f"network.{stage}.corner", tensor[:8, :4, :4], values[f"network.{stage}.corner"], BAR)
        compare(
            f"network.{stage}.mean_abs",
            np.abs(tensor).mean(keepdims=True)[0, 0],
            values[f"network.{stage}.mean_abs"],
            BAR,
        )
    compare("features", got["features"][0], values["features"], BAR)
    compare("projected", got["projected"][0], values["projected"], BAR)
    compare("last_logits", got["logits"][-1], values["last_logits"], BAR)


# What PyTorch's own bf16 loses, and the least cosine of a token's feature with the exact one.
@pytest.mark.parametrize("precision, relative_bar, cosine_bar", [("bf16", 0.023, 0.9995), ("int8", 0.08, 0.995)])
def test_precision(checkpoint, expected, tmp_path, precision, relative_bar, cosine_bar):
    values = read_safetensors(FOLDER / "expected.safetensors")
    image = SHARED / "fixtures" / "images" / expected["image"]
    out = tmp_path / "trace.safetensors"
    got = trace(checkpoint, [image], expected["question"], out, "--precision", precision)
    out.unlink()
    relative, cosine = feature_errors(got["features"], values["features"])
    print(f"{precision}: relative L2 {relative:.2e}, least cosine {cosine:.6f}")
    assert relative <= relative_bar and cosine >= cosine_bar


def test_greedy(checkpoint, expected):
    image = SHARED / "fixtures" / "images" / expected["image"]
    answer = predict(checkpoint, [image], expected["question"], len(expected["greedy"]))
    unsure = next((i for i, margin in enumerate(expected["margins"]) if margin < SURE), len(expected["greedy"]))
    print(f"{unsure} of {len(expected['greedy'])} tokens are held to the published answer")
    assert unsure > 0
    assert answer["tokens"][:unsure] == expected["greedy"][:unsure]
    assert len(answer["tokens"]) == len(expected["greedy"])


def peak_memory(*arguments):
    """The most resident megabytes of one run of the program."""
    # By a small process: a child's peak begins with the memory of the one that forked it.
    launch = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
              "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    command = [sys.executable, "-c", launch, str(BUILD / "fastvlm"), *map(str, arguments)]
    status, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert status == 0, arguments
    print(f"{' '.join(map(str, arguments))}: at most {peak >> 10} MB")
    return peak >> 10


# Converting holds a few megabytes of a model at a time, whether it copies or rounds.
@pytest.mark.parametrize("options", [[], ["--type", "q8_0"], ["--type", "f32", "--split"]])
def test_convert_needs_little_memory(checkpoint, tmp_path, options):
    peak = peak_memory("convert", "--model", checkpoint, "--output", tmp_path / "m.gguf", *options)
    for file in tmp_path.glob("*.gguf"):
        file.unlink()
    assert peak < 300


def test_a_gguf_file_computes_the_same(checkpoint, expected, tmp_path):
    image = SHARED / "fixtures" / "images" / expected["image"]
    file, out = tmp_path / "m.gguf", tmp_path / "trace.safetensors"
    run("convert", "--quiet", "--model", checkpoint, "--output", file)
    before = trace(checkpoint, [image], expected["question"], out)["logits"]
    assert np.array_equal(trace(file, [image], expected["question"], out)["logits"], before)
    file.unlink()


# FVLM_LARGE_MODELS names a folder with full_1.5b and full_7b of make_checkpoint.py, which takes ten minutes and 20 GB.
def large_model(size):
    if "FVLM_LARGE_MODELS" not in os.environ:
        pytest.skip("FVLM_LARGE_MODELS names no folder with full_1.5b and full_7b")
    return pathlib.Path(os.environ["FVLM_LARGE_MODELS"]) / f"full_{size}"


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_larger_models_answer(expected, size):
    image = SHARED / "fixtures" / "images" / expected["image"]
    answer = predict(large_model(size), [image], expected["question"], 2)
    assert len(answer["tokens"]) == 2


def test_7b_in_4_bits(expected, tmp_path):
    """Apple's layout: made with little more memory than its largest tensor takes (1040 MB), and run in less than 6 GB."""
    image, folder = SHARED / "fixtures" / "images" / expected["image"], tmp_path / "int4"
    assert peak_memory("export", "mlx", "--model", large_model("7b"), "--output", folder, "--bits", 4) < 1040 + 1000
    assert peak_memory("predict", "--model", folder, "--image", image, "--prompt", "?", "--max-tokens", 2) < 6000
    shutil.rmtree(folder)
    assert peak_memory("convert", "--model", large_model("7b"), "--output", tmp_path / "m.gguf", "--type", "q4_0") < 1040 + 1000
    (tmp_path / "m.gguf").unlink()
