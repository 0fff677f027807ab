"""The built-in model: where --model is left out or names it, in every command that takes a model."""
import json
import os
import shutil
import subprocess

import pytest

from conftest import BUILD, ROOT, WRAPPER

FILE = ROOT / "models" / "nano" / "nano.gguf"
SAMPLES = [{"image": "photo.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is this?"},
                                                    {"from": "gpt", "value": "Lines."}]}] * 2


def answer(fastvlm, picture, *options, **more):
    return fastvlm("predict", *options, "--image", picture, "--prompt", "What is this?", "--temperature", "0",
                   "--max-tokens", "8", "--json", **more).json


def test_it_is_the_file(fastvlm, picture, tmp_path):
    from_file = answer(fastvlm, picture, "--model", FILE)
    for options in [], ["--model", "nano"], ["--model", "builtin:nano"]:
        found = answer(fastvlm, picture, *options, cwd=tmp_path)
        assert found["tokens"] == from_file["tokens"] and found["image_tokens"] == from_file["image_tokens"]
    assert answer(fastvlm, picture)["model"] == "nano"
    assert fastvlm("inspect", "nano").out == fastvlm("inspect", FILE).out


def test_a_folder_of_that_name_comes_first_where_it_is_named(fastvlm, picture, model, tmp_path):
    shutil.copytree(model, tmp_path / "nano")
    shutil.copytree(model, tmp_path / "builtin:nano")
    ids = {name: fastvlm("inspect", name, "--json", cwd=tmp_path).json["format"] for name in ("nano", "builtin:nano")}
    assert ids == {"nano": "checkpoint", "builtin:nano": "gguf"}
    assert answer(fastvlm, picture, cwd=tmp_path)["tokens"] == answer(fastvlm, picture, "--model", FILE)["tokens"]


def test_the_program_alone_is_enough(fastvlm, picture, tmp_path):
    assert FILE.read_bytes() in (BUILD / "fastvlm").read_bytes()
    result = answer(fastvlm, picture, cwd=tmp_path, env={"TMPDIR": "/nowhere", "HOME": "/nowhere"})
    assert result["tokens"] == answer(fastvlm, picture, "--model", FILE)["tokens"]
    assert list(tmp_path.iterdir()) == []


def test_models_lists_it_first(fastvlm):
    lines = fastvlm("models").out.splitlines()
    assert lines[1].split()[0] == "nano" and "built in" in lines[1]
    listed = fastvlm("models", "--json").json["models"]
    assert [entry["name"] for entry in listed if entry["built_in"]] == ["nano"] and listed[0]["name"] == "nano"


def test_pull_says_that_it_is_here(fastvlm):
    result = fastvlm("pull", "nano")
    assert result.code == 0 and "built in" in result.out
    assert fastvlm("pull", "nano", "--json").json == {"name": "nano", "built_in": True}


@pytest.mark.parametrize("command", ["predict", "chat", "eval", "bench", "trace", "tokenize", "convert", "quantize",
                                     "export", "merge", "train"])
def test_help_says_so(fastvlm, command):
    assert "nano, the built-in model" in " ".join(fastvlm(command, "--help").out.split())


def test_commands_without_a_model(fastvlm, picture, tmp_path):
    data = tmp_path / "data.json"
    data.write_text(json.dumps(SAMPLES))
    assert fastvlm("chat", input="Hello\n", timeout=60).code == 0
    assert fastvlm("eval", "--data", data, "--image-folder", picture.parent, "--json").json["model"] == "nano"
    assert fastvlm("bench", "--json").json["model"] == "nano"
    assert fastvlm("tokenize", "hello").code == 0
    assert fastvlm("trace", "--image", picture, "--prompt", "a", "--out", tmp_path / "t.safetensors").code == 0
    assert fastvlm("convert", "--output", tmp_path / "copy.gguf").code == 0
    assert (tmp_path / "copy.gguf").stat().st_size == pytest.approx(FILE.stat().st_size, rel=0.01)
    for folder, *command in [["hf", "export", "hf"], ["mlx", "export", "mlx", "--layout", "mlx-vlm"],
                             ["llava", "convert", "--to", "llava"]]:
        assert fastvlm(*command, "--output", tmp_path / folder).code == 0
        found = answer(fastvlm, picture, "--model", tmp_path / folder)
        assert found["prompt_tokens"] == answer(fastvlm, picture)["prompt_tokens"]
    plan = fastvlm("train", "--plan", "--model", "nano", "--plan-ranks", "1", "--json").json["plan"]
    assert plan[0]["model"] == "nano" and plan[0]["parameters"] < 50e6


@pytest.mark.parametrize("how", ["whole", "adapters"])
def test_it_can_be_trained(fastvlm, picture, tmp_path, how):
    """Weights in blocks become floats; what comes out is a folder that knows what it was shown."""
    data, output = tmp_path / "data.json", tmp_path / "tuned"
    data.write_text(json.dumps(SAMPLES))
    options = ["--tune", "vision,projector,llm", "--learning-rate", "2e-3"]
    if how == "adapters":
        options = ["--tune", "llm", "--lora", "true", "--learning-rate", "5e-3"]
    progress = fastvlm("train", *options, "--data", data, "--image-folder", picture.parent, "--output", output,
                       "--epochs", "16", "--warmup-ratio", "0", "--quiet")
    assert progress.code == 0, progress.err
    losses = [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    if how == "adapters":
        assert fastvlm("merge", "--adapter", output, "--output", tmp_path / "merged").code == 0
        output = tmp_path / "merged"
    score = ["--data", data, "--image-folder", picture.parent, "--metric", "perplexity", "--json"]
    before, after = (fastvlm("eval", *score, *more).json["perplexity"] for more in ([], ["--model", output]))
    assert after < 0.7 * before


def test_a_new_drawing_gets_what_draws_it(tmp_path):
    """Even where the build was set up before cairo was there."""
    for target in ["demo", "SEED=3"], ["nano"]:
        run = subprocess.run(["make", "-n", *target, f"BUILD={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "install_packages.sh check" in run.stdout and "configure" in run.stdout and "-Dscenes=enabled" in run.stdout
    bare = {name: value for name, value in os.environ.items() if name not in ("IMAGE", "PROMPT", "MODEL")}
    run = subprocess.run([ROOT / "tools" / "demo.sh", tmp_path], env={**bare, "SEED": "3"}, capture_output=True, text=True)
    assert run.returncode == 1 and "make scenes" in run.stderr


@pytest.mark.parametrize("variables, image, questions", [
    ({}, "docs/demo.jpg", 3), ({"IMAGE": "docs/boat.png"}, "docs/boat.png", 1),
    ({"IMAGE": "docs/boat.png", "PROMPT": "It's a \"boat\"?"}, "docs/boat.png", 1), ({"SEED": "3"}, "demo/000/3-000000.jpg", 3),
    ({"MODEL": "tests/golden/hf"}, "docs/demo.jpg", 3)])
def test_demo(variables, image, questions):
    if WRAPPER:
        pytest.skip("the program runs in an emulator")
    if "SEED" in variables and not (BUILD / "tools" / "scenes" / "draw_scenes").exists():
        pytest.skip("draw_scenes was not built")
    bare = {name: value for name, value in os.environ.items() if name not in ("IMAGE", "PROMPT", "SEED", "MODEL")}
    run = subprocess.run([ROOT / "tools" / "demo.sh", BUILD], env={**bare, **variables}, capture_output=True, timeout=300)
    out, err = run.stdout.decode(), run.stderr.decode()
    assert run.returncode == 0, err
    assert out.count("\n$ ") == questions and out.count(f"{image} --prompt ") == questions and "\x1b" not in out
    assert err.count("time to first token") == questions
    assert variables.get("PROMPT", "") in out and out.count("--model tests/golden/hf ") == 3 * ("MODEL" in variables)
