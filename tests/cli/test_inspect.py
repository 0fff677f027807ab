"""inspect: every format, as a table and as JSON."""
import pytest

from conftest import GOLDEN

FILES = {"llava": "checkpoint", "hf/model.safetensors": "safetensors", "llava_bin/pytorch_model.bin": "pickle",
         "apple_int4/fastvithd.mlpackage": "mlpackage", "apple_int4": "checkpoint"}


@pytest.mark.parametrize("name, format", FILES.items())
def test_formats(fastvlm, name, format):
    found = fastvlm("inspect", GOLDEN / name, "--json").json
    assert found["format"] == format and len(found["tensors"]) > 90
    assert found["bytes"] == sum(tensor["bytes"] for tensor in found["tensors"])
    table = fastvlm("inspect", GOLDEN / name)
    assert table.code == 0 and table.out.startswith(f"format: {format}\n")
    assert all(tensor["name"] in table.out for tensor in found["tensors"])


def test_a_checkpoint_shows_its_config(fastvlm, model):
    found = fastvlm("inspect", model, "--json").json
    assert found["metadata"]["hidden_size"]["value"] == 64
    tensor = next(t for t in found["tensors"] if t["name"] == "model.layers.0.self_attn.k_proj.weight")
    assert tensor["shape"] == [32, 64] and tensor["bytes"] == 4096


def test_gguf(fastvlm, model, tmp_path):
    file = tmp_path / "a.gguf"
    assert fastvlm("convert", "--model", model, "--output", file, "--type", "q8_0", "--split").code == 0
    found = fastvlm("inspect", file, "--json").json
    values = {key: entry["value"] for key, entry in found["metadata"].items()}
    assert values["general.architecture"] == "qwen2" and values["qwen2.block_count"] == 2
    assert abs(values["qwen2.attention.layer_norm_rms_epsilon"] - 1e-6) < 1e-12
    assert values["tokenizer.ggml.tokens"]["count"] == 608 and len(values["tokenizer.ggml.tokens"]["first"]) == 8
    assert found["metadata"]["tokenizer.ggml.tokens"]["type"] == "array of string"
    assert values["tokenizer.chat_template"].endswith("bytes)")
    types = {t["name"]: t["type"] for t in found["tensors"]}
    assert types["blk.0.ffn_up.weight"] == "Q8_0" and types["output_norm.weight"] == "F32"


def test_a_package_shows_what_it_says_of_itself(fastvlm, model, tmp_path):
    package = tmp_path / "tower.mlpackage"
    assert fastvlm("export", "coreml", "--model", model, "--output", package, "--size", 256, "--size", 192).code == 0
    values = {key: entry["value"] for key, entry in fastvlm("inspect", package, "--json").json["metadata"].items()}
    assert values["specification_version"] == 7 and values["author"] == "fastvlm" and values["description"]
    assert values["inputs"] == {"images": [[1, 3, 256, 256], [1, 3, 192, 192]]}
    assert list(values["outputs"]) == ["image_features"]
    of_others = fastvlm("inspect", GOLDEN / "apple_int4" / "fastvithd.mlpackage", "--json").json["metadata"]
    assert any(key.startswith("com.github.apple.coremltools") for key in of_others)


def test_what_is_no_model(fastvlm, tmp_path, picture):
    fastvlm("inspect", tmp_path / "missing").failed(1, "missing")
    fastvlm("inspect", picture).failed(1, picture.name, "GGUF", ".safetensors", "PyTorch", ".mlpackage", "folder")
    fastvlm("inspect", tmp_path).failed(1, tmp_path.name)
    fastvlm("inspect").failed(2, "one file")
    (tmp_path / "a.safetensors").write_bytes(b"")
    fastvlm("inspect", tmp_path / "a.safetensors").failed(1, "too short")
