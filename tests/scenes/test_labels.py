"""Teaching the tower the labels of made-up pictures."""
import collections
import json
import math
import os
import pathlib
import struct
import subprocess

import numpy as np
import pytest

BUILD = pathlib.Path(os.environ["FVLM_BUILD"])
MODEL = pathlib.Path(__file__).resolve().parents[1] / "golden" / "llava"


def model_tensors(folder):
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in tensors(path).items()}


def tensors(path):
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {name: data[end + entry["data_offsets"][0]:end + entry["data_offsets"][1]] for name, entry in header.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    subprocess.run([BUILD / "tools" / "scenes" / "draw_scenes", "--count", "24", "--side", "64", "--output", folder], check=True,
                   timeout=100)
    return folder


def train(pictures, *options, data=None, objective="labels"):
    return subprocess.run([str(part) for part in (
        BUILD / "fastvlm", "train", "--model", MODEL, "--data", data or pictures / "data.jsonl", "--image-folder", pictures,
        "--objective", objective, *options)], capture_output=True, text=True, timeout=300)


def cells_of(sample, names, grid):
    """What its marks say of each cell; 0 is nothing, None is unknown."""
    cells = [dict.fromkeys(names, 0) for _ in range(grid * grid)]
    for mark in sample["marks"]:
        x, y = (int(part * grid) for part in mark["at"])
        cells[y * grid + x] = {name: mark.get(name) for name in names}
    return cells


def test_first_loss_and_gradient(pictures, tmp_path):
    """The classifiers begin with zeros: all classes are equally likely."""
    out = tmp_path / "gradients.safetensors"
    run = train(pictures, "--batch-size", 24, "--dump-grads", out, "--json")
    assert run.returncode == 0, run.stderr
    samples = [json.loads(line) for line in (pictures / "data.jsonl").read_text().splitlines()]
    seen, things = collections.defaultdict(list), collections.defaultdict(int)
    for sample in samples:
        for name, value in sample["labels"].items():
            seen[name].append(value)
        for mark in sample["marks"]:
            for name, value in mark.items():
                if name != "at":
                    things[name] = max(things[name], value)
    known, loss = sum(map(len, seen.values())), sum(len(seen[name]) * math.log(max(seen[name]) + 1) for name in seen)
    got = {name: np.frombuffer(value, np.float32) for name, value in tensors(out).items()}
    resolution = json.loads((MODEL / "config.json").read_text())["mm_vision_tower"].rsplit("_", 1)[1]
    grid, biases = int(resolution) // 16, collections.defaultdict(lambda: [0] * (things[name] + 1))
    for sample in samples:
        cells = cells_of(sample, things, grid)
        for name in things:
            classes = things[name] + 1
            marked = [cell[name] for cell in cells if cell[name]]
            empty = sum(cell[name] == 0 for cell in cells)
            together = max(len(marked), 1) if empty else 0
            known += 3 * (len(marked) + together)
            loss += 3 * (len(marked) + together) * math.log(classes)
            for c in range(classes):
                biases[name][c] += (len(marked) + together) / classes - (marked.count(c) if c else together)
    assert json.loads(run.stdout)["loss"] == pytest.approx(loss / known, rel=1e-5)
    gradient = [len(seen[name]) / (max(seen[name]) + 1) - seen[name].count(c) for name in sorted(seen) for c in range(max(seen[name]) + 1)]
    np.testing.assert_allclose(got["classifier.bias"], np.array(gradient) / known, atol=1e-6)
    expected = np.array([value for name in sorted(things) for value in biases[name]]) / known
    np.testing.assert_allclose(got["finder.bias"], 3 * expected, atol=1e-6)


def test_learns_and_resumes(pictures, tmp_path):
    options = ["--batch-size", 8, "--lr", "3e-3", "--epochs", 8, "--save-steps", 12, "--batch-norm", "batch", "--quiet"]
    run = train(pictures, *options, "--output", tmp_path / "whole")
    assert run.returncode == 0, run.stderr
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    source, made = model_tensors(MODEL), model_tensors(tmp_path / "whole")
    assert made.keys() == source.keys()
    for name, value in made.items():
        assert (value != source[name]) == ("vision_tower" in name and not name.endswith("num_batches_tracked")), name
    run = train(pictures, *options, "--output", tmp_path / "again", "--resume-from", tmp_path / "whole" / "checkpoint-12")
    assert run.returncode == 0, run.stderr
    assert model_tensors(tmp_path / "again") == made


def test_refusals(pictures, tmp_path):
    lines = (pictures / "data.jsonl").read_text().splitlines()
    bad = tmp_path / "bad.jsonl"
    for change, word in (({"labels": {}, "marks": []}, "labels"), ({"marks": [{"at": [0, 2]}]}, '"at"'), ({"labels": {"kind": "x"}}, "kind"), ({"labels": {"kind": -1}}, "kind")):
        bad.write_text(json.dumps(json.loads(lines[0]) | change) + "\n" + lines[1] + "\n")
        run = train(pictures, "--output", tmp_path / "out", "--no-shuffle", data=bad)
        assert run.returncode == 1 and word in run.stderr and "bad.jsonl, sample 1" in run.stderr, run.stderr
    bad.write_text(json.dumps({k: v for k, v in json.loads(lines[0]).items() if k not in ("labels", "marks")}) + "\n")
    run = train(pictures, "--output", tmp_path / "out", data=bad)
    assert run.returncode == 1 and 'no sample of the data has "labels"' in run.stderr
    bad.write_text(json.dumps(json.loads(lines[0]) | {"labels": {"kind": 99}}) + "\n")
    run = train(pictures, "--output", tmp_path / "out", "--eval-data", bad, "--eval-steps", 1, "--max-steps", 1)
    assert run.returncode == 1 and "'kind' is 99" in run.stderr, run.stderr
    run = train(pictures, "--output", tmp_path / "out", "--tune", "vision,llm")
    assert run.returncode in (1, 2) and "tower alone" in run.stderr
    run = train(pictures, "--output", tmp_path / "out", "--tune", "projector,llm", objective="both")
    assert run.returncode in (1, 2) and "not among the parts" in run.stderr


def test_answers_beside_labels(pictures, tmp_path):
    """Both losses of a batch are one sum: their gradients are those of each, by the number of targets."""
    losses, gradients = {}, {}
    for objective, parts in (("answers", "vision,projector,llm"), ("labels", "vision"), ("both", "vision,projector,llm")):
        out = tmp_path / f"{objective}.safetensors"
        run = train(pictures, "--tune", parts, "--batch-size", 4, "--no-shuffle", "--dump-grads", out, "--json", objective=objective)
        assert run.returncode == 0, run.stderr
        losses[objective] = json.loads(run.stdout)["loss"]
        gradients[objective] = {name: np.frombuffer(value, np.float32) for name, value in tensors(out).items()}
    share = (losses["both"] - losses["labels"]) / (losses["answers"] - losses["labels"])
    assert 0 < share < 1
    for objective, part, name in (("answers", share, "model.embed_tokens.weight"), ("labels", 1 - share, "finder.bias")):
        np.testing.assert_allclose(gradients["both"][name], part * gradients[objective][name], rtol=1e-3, atol=1e-6)
