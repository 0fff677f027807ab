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


def train(pictures, *options, data=None):
    return subprocess.run([str(part) for part in (
        BUILD / "fastvlm", "train", "--model", MODEL, "--data", data or pictures / "data.jsonl", "--image-folder", pictures,
        "--objective", "labels", *options)], capture_output=True, text=True, timeout=300)


def test_first_loss_and_gradient(pictures, tmp_path):
    """The classifier begins with zeros: all classes are equally likely."""
    out = tmp_path / "gradients.safetensors"
    run = train(pictures, "--batch-size", 24, "--dump-grads", out, "--json")
    assert run.returncode == 0, run.stderr
    labels = [json.loads(line)["labels"] for line in (pictures / "data.jsonl").read_text().splitlines()]
    seen = collections.defaultdict(list)
    for sample in labels:
        for name, value in sample.items():
            seen[name].append(value)
    known = sum(map(len, seen.values()))
    loss, gradient = 0, []
    for name in sorted(seen):
        classes = max(seen[name]) + 1
        loss += len(seen[name]) * math.log(classes) / known
        gradient += [(len(seen[name]) / classes - seen[name].count(c)) / known for c in range(classes)]
    assert json.loads(run.stdout)["loss"] == pytest.approx(loss, rel=1e-5)
    got = np.frombuffer(tensors(out)["classifier.bias"], np.float32)
    np.testing.assert_allclose(got, gradient, atol=1e-6)


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
    for change, word in (({"labels": {}}, "labels"), ({"labels": {"kind": "x"}}, "kind"), ({"labels": {"kind": -1}}, "kind")):
        bad.write_text(json.dumps(json.loads(lines[0]) | change) + "\n" + lines[1] + "\n")
        run = train(pictures, "--output", tmp_path / "out", "--no-shuffle", data=bad)
        assert run.returncode == 1 and word in run.stderr and "bad.jsonl, sample 1" in run.stderr, run.stderr
    bad.write_text(json.dumps({k: v for k, v in json.loads(lines[0]).items() if k != "labels"}) + "\n")
    run = train(pictures, "--output", tmp_path / "out", data=bad)
    assert run.returncode == 1 and "0 labels" in run.stderr
    bad.write_text(json.dumps(json.loads(lines[0]) | {"labels": {"kind": 99}}) + "\n")
    run = train(pictures, "--output", tmp_path / "out", "--eval-data", bad, "--eval-steps", 1, "--max-steps", 1)
    assert run.returncode == 1 and "'kind' is 99" in run.stderr, run.stderr
    run = train(pictures, "--output", tmp_path / "out", "--tune", "vision,llm")
    assert run.returncode in (1, 2) and "tower alone" in run.stderr
