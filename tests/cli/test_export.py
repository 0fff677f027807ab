"""fastvlm export: what our own loader makes of each layout, what it refuses, and what a failure leaves behind."""
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BUILD, GOLDEN, WRAPPER

LAYOUTS = [("hf",), ("mlx",), ("mlx", "--bits", 8), ("mlx", "--bits", 4), ("mlx", "--layout", "mlx-vlm"),
           ("mlx", "--layout", "mlx-vlm", "--bits", 4)]
NAMES = ["-".join(map(str, layout)).replace("--", "") for layout in LAYOUTS]


def answer(fastvlm, model, picture, *options):
    return fastvlm("predict", "--model", model, "--image", picture, "--prompt", "What is this?", "--temperature", 0,
                   "--max-tokens", 12, "--json", *options).json


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def export(fastvlm, layout, model, out, *options):
    result = fastvlm("export", layout[0], "--quiet", "--model", model, "--output", out, *layout[1:], *options)
    assert result.code == 0, result.err
    return out


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_our_loader_answers_the_same(fastvlm, model, picture, tmp_path, layout):
    """Exact where nothing is rounded; else the export of the export is where nothing is rounded any more."""
    once = export(fastvlm, layout, model, tmp_path / "once")
    twice = export(fastvlm, layout, once, tmp_path / "twice")
    first, second = answer(fastvlm, once, picture), answer(fastvlm, twice, picture)
    assert first["tokens"] == second["tokens"]
    assert (once / "model.safetensors").read_bytes() == (twice / "model.safetensors").read_bytes()
    if layout == ("hf",):
        assert first["tokens"] == answer(fastvlm, model, picture)["tokens"]


@pytest.mark.parametrize("source", ["llava_bin", "hf", "apple_fp16", "apple_int8", "apple_int4"])
def test_every_layout_is_a_source(fastvlm, picture, tmp_path, source):
    folder = export(fastvlm, ("mlx", "--type", "f32"), GOLDEN / source, tmp_path / "out")
    assert answer(fastvlm, folder, picture)["tokens"] == answer(fastvlm, GOLDEN / source, picture)["tokens"]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_are_copied(fastvlm, tmp_path, bits):
    """What Apple's fixture has is what we make of the same fp16 weights, and stays what it is."""
    fixture = GOLDEN / f"apple_int{bits}"
    made = export(fastvlm, ("mlx", "--bits", bits), GOLDEN / "apple_fp16", tmp_path / "made")
    kept = export(fastvlm, ("mlx", "--bits", bits), fixture, tmp_path / "kept")
    assert tensors(kept) == tensors(fixture)
    assert tensors(made) == tensors(fixture)


def tensors(folder):
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[8 + length + entry["data_offsets"][0]:
                                                        8 + length + entry["data_offsets"][1]])
            for name, entry in header.items()}


def test_config_additions(fastvlm, model, tmp_path):
    folder = export(fastvlm, ("mlx", "--bits", 4, "--group-size", 32), model, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    before = json.loads((model / "config.json").read_text())
    token = config.pop("image_token_index")
    assert config.pop("quantization") == {"group_size": 32, "bits": 4}
    assert config == {**before, "torch_dtype": "float16", "tie_word_embeddings": config["tie_word_embeddings"]}
    added = json.loads((folder / "added_tokens.json").read_text())
    assert added["<image>"] == token == max(added.values())
    files = {path.name for path in folder.iterdir()}
    assert {"processor_config.json", "preprocessor_config.json", "fastvithd.mlpackage", "merges.txt"} <= files


def test_coreml_package(fastvlm, model, picture, tmp_path):
    package = export(fastvlm, ("coreml", "--type", "f32"), model, tmp_path / "tower.mlpackage")
    folder = export(fastvlm, ("mlx", "--type", "f32"), model, tmp_path / "out")
    assert listing(folder / "fastvithd.mlpackage") == listing(package)
    assert answer(fastvlm, folder, picture)["tokens"] == answer(fastvlm, model, picture)["tokens"]


@pytest.mark.parametrize("arguments, words", [
    ((), ["name one layout"]),
    (("onnx", "--output", "x"), ["name one layout"]),
    (("hf",), ["--output is missing"]),
    (("hf", "--output", "x", "--type", "int8"), ["--type int8"]),
    (("hf", "--output", "x", "--bits", 4), ["--bits is for mlx and coreml"]),
    (("hf", "--output", "x", "--size", 64), ["--size is for coreml"]),
    (("coreml", "--output", "x", "--bits", 4), ["--bits 4"]),
    (("coreml", "--output", "x", "--size", "1024px"), ["--size 1024px"]),
    (("coreml", "--output", "x", "--size", 2**64 + 1024), ["--size 1844"]),
    (("coreml", "--output", "x", "--layout", "apple"), ["--layout is for mlx"]),
    (("mlx", "--output", "x", "--layout", "swift"), ["--layout swift"]),
])
def test_wrong_usage(fastvlm, model, arguments, words):
    result = fastvlm("export", *arguments, "--model", model)
    assert result.code == 2
    for word in words:
        assert word in result.err


@pytest.mark.parametrize("arguments, words", [
    (("mlx", "--bits", 3), [2, "3 bits"]),
    (("mlx", "--bits", 4, "--group-size", 48), [2, "groups of 48"]),
    (("mlx", "--bits", 4, "--type", "f32"), [2, "fp16"]),
    (("coreml", "--size", 100), [2, "100 pixels", "64"]),
    (("coreml", "--size", 64, "--size", 128, "--size", 64), [2, "64", "twice"]),
    (("coreml", "--type", "bf16"), [1, "bf16"]),
])
def test_refused_values(fastvlm, model, tmp_path, arguments, words):
    fastvlm("export", *arguments, "--model", model, "--output", tmp_path / "out").failed(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("type", [None, "q8_0"])
def test_a_vocabulary_without_a_free_row(fastvlm, picture, tmp_path, type):
    """fast_vlm needs a token for pictures: the embeddings grow by a row, a copy of the first."""
    model = tmp_path / "model"
    subprocess.run([*WRAPPER, BUILD / "tools" / "make_demo_model", model, "demo"], check=True)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    if type:
        model = tmp_path / "model.gguf"
        assert fastvlm("convert", "--model", tmp_path / "model", "--output", model, "--type", type).code == 0
    out = export(fastvlm, ("hf",), model, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["image_token_index"] == vocabulary and config["text_config"]["vocab_size"] == vocabulary + 1
    data = (out / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:8 + length])["model.language_model.embed_tokens.weight"]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    row = (end - begin) // (vocabulary + 1)
    assert entry["shape"][0] == vocabulary + 1 and data[end - row:end] == data[begin:begin + row]
    assert len({data[begin + i * row:begin + (i + 1) * row] for i in range(vocabulary + 1)}) == vocabulary
    if not type:
        assert answer(fastvlm, out, picture)["tokens"] == answer(fastvlm, model, picture)["tokens"]


def test_models_that_a_layout_has_no_place_for(fastvlm, model, tmp_path):
    folder = tmp_path / "anyres"
    shutil.copytree(model, folder, copy_function=shutil.copyfile)
    config = json.loads((folder / "config.json").read_text())
    side = int(config["mm_vision_tower"].rsplit("_", 1)[1])
    config.update(image_aspect_ratio="anyres", image_grid_pinpoints=[[side, 2 * side]])
    (folder / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    fastvlm("export", "hf", "--model", folder, "--output", out).failed(1, "tiles")
    fastvlm("export", "mlx", "--layout", "mlx-vlm", "--model", folder, "--output", out).failed(1, "tiles")
    assert not out.exists()


@pytest.mark.parametrize("name", ["network.0.0.other.bn.running_var", "network.0.0.convffn.conv.bn.running_var" + 400 * "x",
                                  "network.0.0.convffn." + 40 * "conv." + "bn.running_var", "conv_exp.convffn.conv.conv.bias"])
def test_tensors_that_no_layout_knows(fastvlm, model, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(model, folder, copy_function=shutil.copyfile)
    shard = next(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, end = json.loads(data[8:8 + length]), len(data) - 8 - length
    name = f"model.vision_tower.vision_tower.model.{name}"
    header[name] = {"dtype": "F32", "shape": [4], "data_offsets": [end, end + 16]}
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:] + bytes(16))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text())
        listed["weight_map"][name] = shard.name
        index.write_text(json.dumps(listed))
    for layout in ("hf", "mlx", "coreml"):
        result = fastvlm("export", layout, "--quiet", "--model", folder, "--output", tmp_path / layout)
        assert result.code in (0, 1) and "Sanitizer" not in result.err, result.err


def test_only_an_earlier_export_is_replaced(fastvlm, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(fastvlm, ("hf",), model, out)
    export(fastvlm, ("mlx",), model, out)  # an export may take another's place
    assert (out / "fastvithd.mlpackage").exists()
    (out / "notes.txt").write_text("mine")
    fastvlm("export", "hf", "--model", model, "--output", out).failed(2, "other files")
    (out / "notes.txt").unlink()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("keep me")
    fastvlm("export", "hf", "--model", model, "--output", mine).failed(2, "mine", "other files")
    fastvlm("export", "hf", "--model", model, "--output", mine / "letter.txt").failed(2, "is a file")
    fastvlm("export", "hf", "--model", out, "--output", out).failed(2, "the model itself")
    within = tmp_path / "out" / "model.safetensors"
    assert fastvlm("convert", "--model", model, "--output", within).code == 0
    fastvlm("export", "hf", "--model", within, "--output", out).failed(2, "holds it")
    assert listing(mine) and listing(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_what_is_aside_goes_only_if_it_was_an_exports(fastvlm, model, tmp_path):
    out, aside, precious = tmp_path / "out", tmp_path / "out.part", tmp_path / "precious"
    aside.mkdir()
    (aside / "letter.txt").write_text("keep me")
    fastvlm("export", "hf", "--model", model, "--output", out).failed(2, "out.part", "other files")
    (aside / "letter.txt").rename(aside / "model.safetensors.part")
    export(fastvlm, ("hf",), model, out)
    assert not aside.exists()
    precious.mkdir()
    (precious / "config.json").write_text("{}")
    aside.symlink_to(precious)
    export(fastvlm, ("hf",), model, out)
    assert (precious / "config.json").exists() and not aside.is_symlink()
    out.rename(tmp_path / "real")
    out.symlink_to(tmp_path / "real")
    export(fastvlm, ("mlx",), model, out)  # the link is replaced, not what it leads to
    assert not out.is_symlink() and not (tmp_path / "real" / "fastvithd.mlpackage").exists()


@pytest.mark.parametrize("layout", [("hf",), ("mlx", "--bits", 4), ("coreml",)], ids=["hf", "mlx", "coreml"])
def test_a_full_disk_leaves_the_old_export(fastvlm, model, tmp_path, layout):
    """A limit on file sizes stops the writing at several places."""
    out = export(fastvlm, layout, model, tmp_path / "out")
    before = listing(out)
    largest = max(map(len, before.values()))
    for limit in (0, 100, largest // 2, largest - 1):
        result = fastvlm("export", layout[0], "--quiet", "--model", model, "--output", out, *layout[1:],
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        result.failed(1, "write")
        assert listing(out) == before
        assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["out"]


def test_an_interrupt_leaves_the_old_export(fastvlm, model, tmp_path):
    """SIGKILL at any moment: the old export is whole, and the next run clears up."""
    out = export(fastvlm, ("hf",), model, tmp_path / "out")
    before = listing(out)
    command = [*WRAPPER, str(BUILD / "fastvlm"), "export", "hf", "--quiet", "--model", str(model), "--output", str(out)]
    for delay in (0.005, 0.02, 0.05):
        process = subprocess.Popen(command)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert listing(out) == before
    export(fastvlm, ("hf",), model, out)
    assert listing(out) == before
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("out")) == ["out"]
