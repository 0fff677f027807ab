"""convert: GGUF files hold what the checkpoint held, answer as it does, and are whole or not there."""
import hashlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import BUILD, GOLDEN, WRAPPER, kill_at_many_moments
from gguf_files import Gguf

sys.path.insert(0, str(GOLDEN))
from golden_set import DTYPES, read_safetensors  # noqa: E402

LAYOUTS = ["llava", "llava_bin", "hf", "apple_int4"]
DTYPES.setdefault("BF16", "<u2")


def trace(fastvlm, model, picture, out):
    assert fastvlm("trace", "--model", model, "--image", picture, "--prompt", "What is it?", "--out", out).code == 0
    return out.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_file_computes_the_same(fastvlm, picture, tmp_path, layout):
    file = tmp_path / "model.gguf"
    report = fastvlm("convert", "--model", GOLDEN / layout, "--output", file, "--json").json
    assert report["tensors"] > 100 and report["bytes_after"] >= report["bytes_before"]
    before = trace(fastvlm, GOLDEN / layout, picture, tmp_path / "a.safetensors")
    assert trace(fastvlm, file, picture, tmp_path / "b.safetensors") == before
    ids = [fastvlm("tokenize", "--model", model, "--text", "Zwei Löwen <|im_end|> 42").out for model in
           (GOLDEN / layout, file)]
    assert ids[0] == ids[1] != ""


@pytest.mark.parametrize("layout", ["llava", "hf"])
def test_a_pair_computes_the_same(fastvlm, picture, tmp_path, layout):
    file = tmp_path / "llm.gguf"
    report = fastvlm("convert", "--model", GOLDEN / layout, "--output", file, "--split", "--json").json
    pair = [fastvlm("inspect", path, "--json").json for path in (file, tmp_path / "mmproj-llm.gguf")]
    assert report["bytes_after"] == sum(one["bytes"] for one in pair)
    before = trace(fastvlm, GOLDEN / layout, picture, tmp_path / "a.safetensors")
    assert trace(fastvlm, file, picture, tmp_path / "b.safetensors") == before
    rest = Gguf(tmp_path / "mmproj-llm.gguf")
    assert rest.values["general.architecture"] == "clip" and rest.values["general.type"] == "mmproj"
    assert {name.split(".")[0] for name in rest.tensors} <= {"v", "mm", "image_newline"}
    for command in ["convert", "--output", tmp_path / "half.gguf"], ["predict", "--image", picture, "--prompt", "?"]:
        fastvlm(*command, "--model", tmp_path / "mmproj-llm.gguf").failed(2, "mmproj-llm.gguf", "alone")
    assert not (tmp_path / "half.gguf").exists()
    (tmp_path / "mmproj-llm.gguf").unlink()
    fastvlm("predict", "--model", file, "--image", picture, "--prompt", "?").failed(1, "mmproj-llm.gguf")


def test_tensors_are_byte_equal(fastvlm, model, tmp_path):
    file = tmp_path / "model.gguf"
    assert fastvlm("convert", "--model", model, "--output", file).code == 0
    source = {}
    for shard in sorted(model.glob("*.safetensors")):
        source.update(read_safetensors(shard))
    found = Gguf(file)
    names = {"token_embd.weight": "model.embed_tokens.weight", "blk.1.attn_q.bias": "model.layers.1.self_attn.q_proj.bias",
             "v.patch_embed.0.reparam_conv.weight": "model.vision_tower.vision_tower.model.patch_embed.0.reparam_conv.weight",
             "mm.2.weight": "model.mm_projector.2.weight"}
    for short, name in names.items():
        assert found.tensors[short][1] == source[name].shape
    digests = sorted(hashlib.sha256(array.tobytes()).hexdigest() for array in source.values())
    assert sorted(hashlib.sha256(data).hexdigest() for _, _, data in found.tensors.values()) == digests
    assert found.values["fastvlm.file.config.json"] == (model / "config.json").read_text()


def test_llama_cpp_finds_its_metadata(fastvlm, model, tmp_path):
    assert fastvlm("convert", "--model", model, "--output", tmp_path / "llm.gguf", "--split", "--type", "f16").code == 0
    file, config = Gguf(tmp_path / "llm.gguf"), json.loads((model / "config.json").read_text())
    values = file.values
    assert values["general.architecture"] == "qwen2" and values["general.file_type"] == 1
    for key, name in {"block_count": "num_hidden_layers", "embedding_length": "hidden_size",
                      "attention.head_count_kv": "num_key_value_heads", "context_length": "max_position_embeddings"}.items():
        assert values[f"qwen2.{key}"] == config[name]
    assert values["qwen2.rope.freq_base"] == 1e6
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == len(set(tokens)) == file.tensors["token_embd.weight"][1][0]
    vocabulary = json.loads((model / "vocab.json").read_text())
    assert all(tokens[id] == token and kinds[id] == 1 for token, id in vocabulary.items())
    assert tokens[582] == "<|im_end|>" and kinds[582] == 3 and values["tokenizer.ggml.eos_token_id"] == 582
    assert kinds[-1] == 5
    merges = [line for line in (model / "merges.txt").read_text().splitlines() if line and not line.startswith("#version")]
    assert values["tokenizer.ggml.merges"] == merges
    assert "<|im_start|>" in values["tokenizer.chat_template"]
    types = {name: kind for name, (kind, _, _) in file.tensors.items()}
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.attn_q.bias"] == types["output_norm.weight"] == "F32"


def test_types_by_rule(fastvlm, model, tmp_path):
    file = tmp_path / "model.gguf"
    assert fastvlm("convert", "--model", model, "--output", file, "--type", "q8_0",
                   "--keep", "vision=f32,embed=q4_0,projector=bf16").code == 0
    types = {name: kind for name, (kind, _, _) in Gguf(file).tensors.items()}
    assert types["blk.0.attn_q.weight"] == types["blk.1.ffn_down.weight"] == "Q8_0"
    assert types["token_embd.weight"] == "Q4_0" and types["mm.0.weight"] == "BF16"
    assert types["blk.0.attn_norm.weight"] == types["mm.0.bias"] == "F32"
    assert {kind for name, kind in types.items() if name.startswith("v.")} <= {"F32", "I64"}


@pytest.mark.parametrize("kind, bar", [("q8_0", 0.006), ("q4_0", 0.1), ("f16", 5e-4), ("bf16", 4e-3)])
def test_values_survive_rounding(fastvlm, model, tmp_path, kind, bar):
    assert fastvlm("convert", "--model", model, "--output", tmp_path / "a.gguf", "--type", "f32").code == 0
    assert fastvlm("convert", "--model", model, "--output", tmp_path / "b.gguf", "--type", kind).code == 0
    exact, rounded = Gguf(tmp_path / "a.gguf"), Gguf(tmp_path / "b.gguf")
    name = "blk.0.ffn_gate.weight"
    assert rounded.tensors[name][0] == kind.upper()
    a, b = exact.floats(name), rounded.floats(name)
    error = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert 0 < error < bar or (kind in ("f16", "bf16") and error == 0)  # the source may be of that type


def test_rows_that_do_not_fit_are_reported(fastvlm, model, tmp_path):
    result = fastvlm("convert", "--model", model, "--output", tmp_path / "a.gguf", "--type", "q4_k")
    assert result.code == 0 and "not whole blocks" in result.err  # rows of 64 and 128
    assert Gguf(tmp_path / "a.gguf").tensors["blk.0.attn_q.weight"][0] == "Q4_0"


def test_the_thread_count_changes_nothing(fastvlm, model, tmp_path):
    files = [tmp_path / f"{threads}.gguf" for threads in (1, 3)]
    for threads, file in zip((1, 3), files):
        assert fastvlm("convert", "--model", model, "--output", file, "--type", "q4_0", "--threads", threads).code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("options, words", [
    (["--type", "q5_k"], ["q5_k", "q8_0"]),
    (["--keep", "eyes=f16"], ["eyes=f16", "vision"]),
    (["--keep", "vision=q8_0"], ["vision", "f16"]),
    (["--keep", "head=q8_0"], ["head", "embed"]),  # tied
])
def test_wrong_types_are_errors(fastvlm, model, tmp_path, options, words):
    fastvlm("convert", "--model", model, "--output", tmp_path / "a.gguf", *options).failed(2, *words)
    assert list(tmp_path.glob("a.*")) == []


def test_wrong_usage(fastvlm, model, tmp_path):
    fastvlm("convert", "--model", model).failed(2, "--output")
    fastvlm("convert", "--model", model, "--output", tmp_path / "x", "--to", "onnx").failed(2, "onnx")


def test_a_full_disk_leaves_the_old_file(fastvlm, model, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"the old one")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    fastvlm("convert", "--model", model, "--output", file, preexec_fn=limit).failed(1, "cannot write", "model.gguf.part")
    assert file.read_bytes() == b"the old one" and sorted(tmp_path.iterdir()) == [file]
    fastvlm("convert", "--model", model, "--output", file, "--split", preexec_fn=limit).failed(1, "cannot write")
    assert file.read_bytes() == b"the old one" and sorted(tmp_path.iterdir()) == [file]


def test_no_space_leaves_the_old_file(fastvlm, model, tmp_path):
    """What is written aside goes to a device that is always full."""
    file, aside = tmp_path / "model.gguf", tmp_path / "model.gguf.part"
    file.write_bytes(b"the old one")
    aside.symlink_to("/dev/full")
    fastvlm("convert", "--model", model, "--output", file).failed(1, "model.gguf.part", "No space left")
    assert file.read_bytes() == b"the old one" and not aside.is_symlink()


@pytest.mark.parametrize("options, read", [([], "new.gguf.part"), (["--split"], "new.gguf.part"), (["--split"], "mmproj-new.gguf.part")])
def test_what_is_written_aside_is_not_the_model(fastvlm, model, tmp_path, options, read):
    source, out = tmp_path / read, tmp_path / "new.gguf"
    assert fastvlm("convert", "--model", model, "--output", source).code == 0
    before = source.read_bytes()
    for command in ["convert"], ["quantize", "--method", "rtn"]:
        fastvlm(*command, "--model", source, "--output", out, *options).failed(2, read, "is the model")
        assert source.read_bytes() == before and list(tmp_path.iterdir()) == [source]


def test_a_killed_run_leaves_the_old_file(model, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"the old one")
    fifo = tmp_path / "model.gguf.part"
    os.mkfifo(fifo)  # the writer waits for somebody to read what it writes aside
    command = [*WRAPPER, str(BUILD / "fastvlm"), "convert", "--model", str(model), "--output", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    with open(fifo, "rb") as reader:
        assert reader.read(4) == b"GGUF"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert file.read_bytes() == b"the old one"


@pytest.mark.parametrize("options", [(), ("--split",), ("--to", "llava")], ids=["file", "pair", "folder"])
def test_a_kill_at_any_moment_leaves_whole_files(fastvlm, model, tmp_path, options):
    out = tmp_path / "out"

    def convert(kind):
        assert fastvlm("convert", "--model", model, "--output", out, "--type", kind, *options).code == 0
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {path.relative_to(tmp_path): path.read_bytes() for path in files}

    new, old = convert("f16"), convert("f32")
    assert new.keys() == old.keys()

    def check():
        for path in old:
            assert (tmp_path / path).read_bytes() in (old[path], new[path])

    kill_at_many_moments(check, "convert", "--model", model, "--output", out, "--type", "f16", *options)
    assert convert("f32") == old  # what was left aside is in nobody's way, and gone


def test_an_interrupt_cleans_up(model, tmp_path):
    file, fifo = tmp_path / "model.gguf", tmp_path / "model.gguf.part"
    file.write_bytes(b"the old one")
    os.mkfifo(fifo)
    command = [*WRAPPER, str(BUILD / "fastvlm"), "convert", "--model", str(model), "--output", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    with open(fifo, "rb") as reader:
        reader.read(4)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        reader.read()
    assert process.wait() == -signal.SIGINT and b"as it was" in process.stderr.read()
    assert file.read_bytes() == b"the old one" and not fifo.exists()


def test_a_file_may_replace_its_own_source(fastvlm, model, tmp_path):
    file = tmp_path / "model.gguf"
    assert fastvlm("convert", "--model", model, "--output", file).code == 0
    assert fastvlm("convert", "--model", file, "--output", file, "--type", "q8_0").code == 0
    assert Gguf(file).tensors["blk.0.attn_q.weight"][0] == "Q8_0"


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_only_files_are_replaced(fastvlm, model, tmp_path, command):
    folder, fifo = tmp_path / "folder", tmp_path / "fifo"
    folder.mkdir()
    os.mkfifo(fifo)
    for place, word in ((folder, "is a folder"), (f"{tmp_path}/new/", "is a folder"), (fifo, "no regular file")):
        fastvlm(command, "--model", model, "--output", place).failed(2, word)
    assert sorted(tmp_path.iterdir()) == [fifo, folder] and list(folder.iterdir()) == []


def test_a_strange_gguf_is_refused(fastvlm, tmp_path):
    file = tmp_path / "strange.gguf"
    file.write_bytes(b"GGUF" + bytes([3, 0, 0, 0]) + bytes(16))
    fastvlm("convert", "--model", file, "--output", tmp_path / "b.gguf").failed(1, "strange.gguf")
    file.write_bytes(b"something else")
    fastvlm("convert", "--model", file, "--output", tmp_path / "b.gguf").failed(1, "not a GGUF file")


def shards(folder):
    return {name: array for shard in sorted(folder.glob("*.safetensors"))
            for name, array in read_safetensors(shard).items()}


@pytest.mark.parametrize("layout, to", [("llava", "llava"), ("hf", "fast_vlm")])
def test_back_again_bit_by_bit(fastvlm, tmp_path, layout, to):
    file, folder = tmp_path / "m.gguf", tmp_path / "back"
    assert fastvlm("convert", "--model", GOLDEN / layout, "--output", file).code == 0
    report = fastvlm("convert", "--model", file, "--output", folder, "--to", to, "--json").json
    before, after = shards(GOLDEN / layout), shards(folder)
    assert before.keys() == after.keys() and report["tensors"] == len(after)
    assert {name for name in before if before[name].tobytes() != after[name].tobytes() or
            before[name].shape != after[name].shape} == set()
    if to == "llava":
        for name in ("config.json", "generation_config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
            assert (folder / name).read_bytes() == (GOLDEN / layout / name).read_bytes(), name


@pytest.mark.parametrize("options", [("--type", "f32"), ("--split",), ("--split", "--type", "f32")])
def test_back_again_in_f32(fastvlm, model, tmp_path, options):
    assert fastvlm("convert", "--model", model, "--output", tmp_path / "m.gguf", *options).code == 0
    stored = [fastvlm("inspect", file, "--json").json["bytes"] for file in tmp_path.glob("*.gguf")]
    for source, out in ((model, "a"), (tmp_path / "m.gguf", "b")):
        back = fastvlm("convert", "--model", source, "--output", tmp_path / out, "--to", "llava", "--type", "f32", "--json").json
    assert back["bytes_before"] == sum(stored)
    a, b = shards(tmp_path / "a"), shards(tmp_path / "b")
    assert a.keys() == b.keys()
    assert {name for name in a if a[name].dtype != b[name].dtype or a[name].tobytes() != b[name].tobytes()} == set()


def test_from_transformers_to_llava(fastvlm, picture, tmp_path):
    folder = tmp_path / "llava"
    assert fastvlm("convert", "--model", GOLDEN / "hf", "--output", folder, "--to", "llava").code == 0
    before = trace(fastvlm, GOLDEN / "hf", picture, tmp_path / "a.safetensors")
    assert trace(fastvlm, folder, picture, tmp_path / "b.safetensors") == before


def test_folders_take_float_types_only(fastvlm, model, tmp_path):
    fastvlm("convert", "--model", model, "--output", tmp_path / "x", "--to", "llava", "--type", "q8_0").failed(2, "f32")
