"""quantize: GPTQ errs less than rounding on pictures it saw and on others, whatever the threads, and goes on where it was
stopped."""
import json
import os
import resource
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, GOLDEN, WRAPPER, kill_at_many_moments
from gguf_files import Gguf


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in sorted((GOLDEN / "images").iterdir()):
        if picture.suffix in (".jpg", ".png", ".webp"):
            shutil.copy(picture, folder)
    assert len(list(folder.iterdir())) >= 2
    (folder / "prompts.txt").write_text("\n".join(["Describe the image.", "What is this?", "", "Is it red?", "Read it.",
                                                   "Why?", "Where is it?", "How many are there?", "Who?"]) + "\n")
    return folder


def quantize(fastvlm, model, pictures, out, *options):
    return fastvlm("quantize", "--model", model, "--output", out, "--calibration", pictures, "--json", *options).json


@pytest.mark.parametrize("kind, bar", [("q4_0", 0.1), ("q8_0", 0.007)])
def test_gptq_errs_less_than_rounding(fastvlm, model, pictures, picture, tmp_path, kind, bar):
    out = tmp_path / "q.gguf"
    report = quantize(fastvlm, model, pictures, out, "--type", kind)
    assert len(report["layers"]) == 2 and report["answers"] == 3 and report["resumed_layers"] == 0
    for layer in report["layers"]:
        assert 0 < layer["error"] < 0.9 * layer["rtn"] < bar
        assert 0 < layer["error_held_out"] < 0.9 * layer["rtn_held_out"] < bar
    assert report["bytes_after"] < report["bytes_before"]
    assert report["perplexity_after"] < 3 * report["perplexity_before"]
    types = {name: kind for name, (kind, _, _) in Gguf(out).tensors.items()}
    assert types["blk.1.ffn_down.weight"] == kind.upper() and types["blk.1.attn_norm.weight"] == "F32"
    assert not (tmp_path / "q.gguf.work").exists()
    assert fastvlm("predict", "--model", out, "--image", picture, "--prompt", "What is it?").code == 0


def test_rtn_is_what_convert_does(fastvlm, model, pictures, tmp_path):
    report = quantize(fastvlm, model, pictures, tmp_path / "a.gguf", "--type", "q4_0", "--method", "rtn")
    assert all(layer["error"] == layer["rtn"] for layer in report["layers"])
    assert fastvlm("convert", "--model", model, "--output", tmp_path / "b.gguf", "--type", "q4_0").code == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    plain = fastvlm("quantize", "--model", model, "--output", tmp_path / "c.gguf", "--type", "q4_0", "--json").json
    assert plain["layers"] == [] and plain["perplexity_before"] is None
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_thread_count_changes_nothing(fastvlm, model, pictures, tmp_path):
    files = [tmp_path / f"{threads}.gguf" for threads in (1, 3)]
    for threads, file in zip((1, 3), files):
        quantize(fastvlm, model, pictures, file, "--type", "q4_0", "--threads", threads)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stopped_run_goes_on(fastvlm, model, pictures, tmp_path):
    out, fifo = tmp_path / "q.gguf", tmp_path / "q.gguf.part"
    os.mkfifo(fifo)  # the layers get done, then the writer waits for a reader
    command = [*WRAPPER, str(BUILD / "fastvlm"), "quantize", "--model", str(model), "--output", str(out),
               "--calibration", str(pictures), "--type", "q4_0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    with open(fifo, "rb") as reader:
        assert reader.read(4) == b"GGUF"
        process.send_signal(signal.SIGKILL)
        process.wait()
    fifo.unlink()
    layers = sorted((tmp_path / "q.gguf.work").iterdir())
    assert len(layers) == 2
    layers[1].write_bytes(layers[1].read_bytes()[:-40])  # one that was cut is made again
    report = quantize(fastvlm, model, pictures, out, "--type", "q4_0")
    assert report["resumed_layers"] == 1 and not (tmp_path / "q.gguf.work").exists()
    clean = quantize(fastvlm, model, pictures, tmp_path / "clean.gguf", "--type", "q4_0")
    assert out.read_bytes() == (tmp_path / "clean.gguf").read_bytes()
    assert [round(layer["error"], 6) for layer in clean["layers"]] == [round(layer["error"], 6) for layer in report["layers"]]


def test_a_kill_at_any_moment_leaves_a_whole_file(fastvlm, model, pictures, tmp_path):
    out = tmp_path / "q.gguf"
    quantize(fastvlm, model, pictures, out, "--type", "q4_0")
    new = out.read_bytes()
    quantize(fastvlm, model, pictures, out, "--type", "q8_0")
    old = out.read_bytes()

    def check():
        assert out.read_bytes() in (old, new)

    kill_at_many_moments(check, "quantize", "--model", model, "--output", out, "--calibration", pictures, "--type", "q4_0")
    quantize(fastvlm, model, pictures, out, "--type", "q8_0")
    assert out.read_bytes() == old and sorted(tmp_path.glob("q*")) == [out]


@pytest.mark.parametrize("bytes", [10_000, 100_000])
def test_a_full_disk_leaves_the_old_file(fastvlm, model, pictures, tmp_path, bytes):
    """The first limit stops the file of a layer, the second the model's."""
    out = tmp_path / "q.gguf"
    out.write_bytes(b"the old one")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))  # noqa: E731
    fastvlm("quantize", "--model", model, "--output", out, "--calibration", pictures, "--type", "q8_0",
            preexec_fn=limit).failed(1, "cannot write", ".part")
    assert out.read_bytes() == b"the old one" and list(tmp_path.rglob("*.part")) == []


def test_what_cannot_be_written_is_told_before_long_work(fastvlm, model, pictures, tmp_path):
    (tmp_path / "mmproj-q.gguf").mkdir()
    fastvlm("quantize", "--model", model, "--output", tmp_path / "q.gguf", "--split", "--calibration",
            pictures).failed(2, "mmproj-q.gguf")
    assert not (tmp_path / "q.gguf.work").exists()


def test_layers_of_other_settings_are_not_taken(fastvlm, model, pictures, tmp_path):
    out, limited = tmp_path / "q.gguf", tmp_path / "q.gguf.part"
    limited.mkdir()  # nothing can be written there: the layers stay
    result = fastvlm("quantize", "--model", model, "--output", out, "--calibration", pictures, "--type", "q8_0")
    result.failed(1, "q.gguf.part")
    assert len(list((tmp_path / "q.gguf.work").iterdir())) == 2
    limited.rmdir()
    assert quantize(fastvlm, model, pictures, out, "--type", "q4_0")["resumed_layers"] == 0


def test_a_data_set_with_answers(fastvlm, model, pictures, tmp_path):
    names = sorted(path.name for path in pictures.iterdir() if path.suffix != ".txt")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A picture of a thing."}]
    samples = [{"id": str(i), "image": names[i % len(names)], "conversations": turns} for i in range(3)]
    (pictures / "data.json").write_text(json.dumps(samples))
    report = quantize(fastvlm, model, pictures, tmp_path / "q.gguf", "--type", "q8_0")
    assert report["answers"] == 3  # too few to keep any out
    assert all(layer["error_held_out"] is None for layer in report["layers"])
    assert report["perplexity_before"] > 10  # made-up weights do not foresee this answer


def test_wrong_usage(fastvlm, model, pictures, tmp_path):
    out = tmp_path / "q.gguf"
    fastvlm("quantize", "--model", model, "--output", out, "--method", "gptq").failed(2, "--calibration")
    fastvlm("quantize", "--model", model, "--output", out, "--method", "magic").failed(2, "magic")
    fastvlm("quantize", "--model", model, "--output", out, "--calibration", tmp_path / "no").failed(1, "no")
    (pictures / "prompts.txt").unlink()
    fastvlm("quantize", "--model", model, "--output", out, "--calibration", pictures).failed(1, "prompts.txt")
