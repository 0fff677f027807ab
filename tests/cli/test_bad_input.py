"""Bad input end to end: damaged pictures, weights, configurations and tokenizers. Each gets exit code 1 or 2 and one clear
line that names the file or value, soon and without much memory."""
import ctypes
import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
import zlib

import pytest

from conftest import GOLDEN

IMAGES = GOLDEN / "images"


def refuse(fastvlm, model, image, *words, prompt="What is this?", options=()):
    result = fastvlm("predict", "--model", model, "--image", image, "--prompt", prompt, "--temperature", "0", "--max-tokens",
                     "2", *options, timeout=600)
    assert result.out.strip() == ""
    return result.failed(result.code if result.code in (1, 2) else 1, *map(str, words))


@pytest.fixture
def broken(tmp_path):
    """A copy of a golden checkpoint that a test may spoil."""

    def run(layout="llava"):
        folder = tmp_path / layout
        shutil.copytree(GOLDEN / layout, folder)
        return folder

    return run


# Pictures

@pytest.mark.parametrize("name", sorted(os.listdir(IMAGES)))
def test_truncated_pictures(fastvlm, model, tmp_path, name):
    data = (IMAGES / name).read_bytes()
    cut = tmp_path / name
    for size in (0, 1, 11, len(data) // 3):
        cut.write_bytes(data[:size])
        refuse(fastvlm, model, cut, cut)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels, texts=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + texts + chunk(b"IDAT", zlib.compress(pixels))
            + chunk(b"IEND", b""))


@pytest.mark.parametrize("data, words", [
    (b"", ""), (b"not a picture at all, only text", ""), (bytes(5000), ""),
    (png(50000, 40000, bytes(1000)), "50000 x 40000"),
    (png(2 ** 31 - 1, 2 ** 31 - 1, bytes(1000)), ""),
    (png(0, 10, bytes(1000)), ""),
    (png(100, 100, bytes(1000)), ""),
    (png(100, 100, bytes(30100)).replace(b"IDAT", b"IDAX"), ""),
], ids=["empty", "text", "zeros", "2-gigapixels", "largest", "no-width", "short", "no-data"])
def test_bad_pictures(fastvlm, model, tmp_path, data, words):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    refuse(fastvlm, model, path, path, words)


def test_texts_that_unpack_to_much(fastvlm, model, tmp_path):
    """Each is below the limit for one; together they are 800 MB. The picture is fine."""
    path = tmp_path / "picture.png"
    path.write_bytes(png(16, 16, bytes(49 * 16), chunk(b"zTXt", b"name\0\0" + zlib.compress(b"a" * 8_000_000)) * 100))
    result = fastvlm("predict", "--model", model, "--image", path, "--prompt", "x", "--max-tokens", "2", timeout=600)
    assert result.code == 0, result.err
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 600_000  # KiB, of the largest until now


# A side of one pixel is odd, not wrong: what pads, crops or cuts tiles must come to no empty piece.
@pytest.mark.parametrize("width, height", [(1, 60000), (60000, 1), (1, 1)], ids=["tall", "wide", "dot"])
@pytest.mark.parametrize("mode", [
    {"image_aspect_ratio": "pad"}, {"image_aspect_ratio": "square"},
    *({"image_aspect_ratio": "anyres", "mm_patch_merge_type": merge, "image_grid_pinpoints": [[192, 384], [384, 192], [384, 384]]}
      for merge in ("flat", "spatial", "spatial_unpad")),
], ids=lambda mode: "-".join([mode["image_aspect_ratio"], *filter(None, [mode.get("mm_patch_merge_type")])]))
def test_thin_pictures(fastvlm, broken, tmp_path, width, height, mode):
    folder, path = broken(), tmp_path / "picture.png"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **mode}))
    path.write_bytes(png(width, height, (b"\0" + b"abc" * width) * height))
    result = fastvlm("predict", "--model", folder, "--image", path, "--prompt", "What is this?", "--temperature", "0",
                     "--max-tokens", "2", "--json", timeout=600)
    assert result.json["image_tokens"] > 0


def test_pictures_that_cannot_be_read(fastvlm, model, tmp_path):
    refuse(fastvlm, model, tmp_path / "none.png", tmp_path / "none.png", "No such file")
    refuse(fastvlm, model, tmp_path, tmp_path)
    result = fastvlm("predict", "--model", model, "--image", "-", "--prompt", "x")
    result.failed(1, "")
    secret = tmp_path / "secret.png"
    shutil.copy(IMAGES / "photo.jpg", secret)
    secret.chmod(0)
    fastvlm("predict", "--model", model, "--image", secret, "--prompt", "x",
            preexec_fn=without_roots_rights).failed(1, str(secret), "Permission denied")


def without_roots_rights():
    """Root reads everything, unless the program that is started next may not have these two capabilities."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


# Prompts

def test_prompt_beyond_the_context(fastvlm, model, picture):
    refuse(fastvlm, model, picture, "context", prompt="word " * 20000)
    refuse(fastvlm, model, picture, "context", options=["--ctx", "16"])


# Models: folders and configurations

def test_model_folders(fastvlm, picture, tmp_path):
    refuse(fastvlm, tmp_path / "none", picture, tmp_path / "none")
    refuse(fastvlm, tmp_path, picture, tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    refuse(fastvlm, file, picture, file)


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
def test_missing_files(fastvlm, broken, picture, name):
    folder = broken()
    (folder / name).unlink()
    refuse(fastvlm, folder, picture, name)


def test_missing_tokenizer(fastvlm, broken, picture):
    folder = broken()
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    refuse(fastvlm, folder, picture, folder, "tokenizer.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', '"\xff"', "[" * 100000,
                                  '{"x": [' + "[],{}," * 300000 + "0]}"],
                         ids=["empty", "open", "list", "null", "duplicate", "latin1", "deep", "bomb"])
def test_bad_json(fastvlm, broken, picture, name, text):
    folder = broken()
    (folder / name).write_bytes(text.encode("latin-1"))
    refuse(fastvlm, folder, picture, name)


@pytest.mark.parametrize("change", [
    {"hidden_size": 0}, {"hidden_size": -64}, {"hidden_size": 2 ** 40}, {"hidden_size": "64"}, {"num_hidden_layers": 10 ** 9},
    {"num_attention_heads": 3}, {"num_key_value_heads": 0}, {"vocab_size": 2 ** 31}, {"model_type": "llava_llama"},
    {"mm_vision_arch": {"layers": [1], "embed_dims": [8], "mlp_ratio": 4, "token_mixers": ["repmixer"]}},
    {"mm_projector_type": "no_such"}, {"num_hidden_layers": 3},
], ids=str)
def test_bad_configurations(fastvlm, broken, picture, change):
    folder = broken()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    refuse(fastvlm, folder, picture)


# Models: weights

def safetensors(path):
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size]), data[8 + size:]


def write_safetensors(path, header, data):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


SHARD = "model-00001-of-00002.safetensors"


def first(header):
    return next(name for name in header if name != "__metadata__")


def change_entry(key, value):
    def change(header):
        header[first(header)][key] = value(header[first(header)][key]) if callable(value) else value

    return change


def overlap(header):
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


@pytest.mark.parametrize("change", [
    change_entry("dtype", "F13"), change_entry("dtype", 7), change_entry("shape", [2 ** 33, 2 ** 33]),
    change_entry("shape", [2 ** 62, 4]), change_entry("shape", [-1, 4]), change_entry("shape", lambda shape: shape + [2]),
    change_entry("shape", "all"), change_entry("data_offsets", [0, 2 ** 60]), change_entry("data_offsets", [8, 4]),
    change_entry("data_offsets", lambda offsets: [offsets[0] + 1, offsets[1] + 1]), change_entry("data_offsets", [0]),
    overlap, lambda header: header.pop(first(header)),
], ids=["dtype", "dtype-type", "product-overflow", "bytes-overflow", "negative", "other-shape", "shape-type", "past-the-end",
        "backwards", "shifted", "one-offset", "overlap", "missing-tensor"])
def test_headers_that_lie(fastvlm, broken, picture, change):
    folder = broken()
    header, data = safetensors(folder / SHARD)
    change(header)
    write_safetensors(folder / SHARD, header, data)
    refuse(fastvlm, folder, picture)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_truncated_weights(fastvlm, broken, picture, size):
    folder = broken()
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:size])
    refuse(fastvlm, folder, picture, SHARD)


@pytest.mark.parametrize("length", [2 ** 64 - 1, 2 ** 63, 10 ** 9, 0])
def test_header_length_that_lies(fastvlm, broken, picture, length):
    folder = broken()
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(struct.pack("<Q", length) + data[8:])
    refuse(fastvlm, folder, picture, SHARD)


# Models: pickles

class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def replace_pickle(path, make):
    """Give the zip at `path` the pickle that `make` makes of the old one."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, make(data) if name.endswith("data.pkl") else data)


def test_pickle_that_runs_a_command(fastvlm, broken, picture, tmp_path):
    folder, evidence = broken("llava_bin"), tmp_path / "executed"
    replace_pickle(folder / "pytorch_model.bin", lambda old: pickle.dumps(Command(evidence), protocol=2))
    refuse(fastvlm, folder, picture, "pytorch_model.bin")
    assert not evidence.exists()


@pytest.mark.parametrize("data", [b"", b".", b"\x80\x02", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueR.", b"\x80\xff.",
                                  b"(" * 100000, b"\x80\x02]" + b"\x94(h\x00" * 10000 + b".", b"\x80\x02\x8a\xff" + b"\xff" * 255,
                                  b"\x80\x02X\xff\xff\xff\xffabc."],
                         ids=["empty", "stop", "cut", "system", "protocol", "marks", "memo", "long", "string-past-the-end"])
def test_bad_pickles(fastvlm, broken, picture, data):
    folder = broken("llava_bin")
    replace_pickle(folder / "pytorch_model.bin", lambda old: data)
    refuse(fastvlm, folder, picture, "pytorch_model.bin")


def test_truncated_pickle_archive(fastvlm, broken, picture):
    folder = broken("llava_bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    for size in (0, 4, 1000, len(data) - 10):
        (folder / "pytorch_model.bin").write_bytes(data[:size])
        refuse(fastvlm, folder, picture, "pytorch_model.bin")


# Models: Apple's exports

@pytest.mark.parametrize("name", ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel",
                                  "Data/com.apple.CoreML/weights/weight.bin"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "noise"])
def test_bad_mlpackages(fastvlm, broken, picture, name, damage):
    folder = broken("apple_fp16")
    path = folder / "fastvithd.mlpackage" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": data[:len(data) // 2], "noise": bytes(b ^ 0x5a for b in data)}[damage])
    refuse(fastvlm, folder, picture)
