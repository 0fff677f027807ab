"""TensorBoard reads the event files of a training run, and sees one curve where a run went on from an older checkpoint."""

import json

import numpy as np
import pytest

from golden_set import run

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def train(golden, output, *options):
    run(
        "train", "--model", golden.folder / "llava", "--data", golden.folder / "train.json", "--image-folder",
        golden.images, "--eval-data", golden.folder / "train.json", "--eval-steps", "2", "--save-steps", "2",
        "--tune", "projector", "--quiet", "--output", output, *options,
    )


def curves(output):
    events = accumulator.EventAccumulator(str(output / "runs"), purge_orphaned_data=True)
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def check(output, steps):
    entries = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    trained = {entry["step"]: entry for entry in entries if "loss" in entry}
    found = curves(output)
    assert sorted(found) == ["eval/loss", "train/epoch", "train/grad_norm", "train/learning_rate", "train/loss",
                             "train/tokens_per_second"]
    for tag, name in (("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("train/learning_rate", "learning_rate")):
        assert [step for step, _ in found[tag]] == list(range(1, steps + 1))
        assert [value for _, value in found[tag]] == [np.float32(trained[step][name]) for step, _ in found[tag]]
    evaluated = {entry["step"]: entry["eval_loss"] for entry in entries if "eval_loss" in entry}
    assert found["eval/loss"] == [(step, np.float32(loss)) for step, loss in sorted(evaluated.items())]


def test_tensorboard_reads_a_run(golden, tmp_path):
    train(golden, tmp_path, "--max-steps", "6")
    check(tmp_path, 6)
    train(golden, tmp_path, "--max-steps", "6", "--resume-from", tmp_path / "checkpoint-2")
    assert len(list((tmp_path / "runs").iterdir())) == 2
    check(tmp_path, 6)


def test_there_are_none_where_none_are_wanted(golden, tmp_path):
    train(golden, tmp_path, "--max-steps", "1", "--report-to", "none")
    assert not (tmp_path / "runs").exists()
