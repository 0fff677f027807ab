"""train on several processes: the losses of one, memory in shares, checkpoints for any number of ranks, faults and signals
of one rank end all of them."""
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from conftest import BUILD, GOLDEN, WRAPPER, Result
from test_train import IMAGES, MODEL, SLOWNESS, log, read_all, sample, weights

MPIRUN = shutil.which("mpirun")
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
RUN = ["--tune=vision,projector,llm", "--lr", "1e-3", "--batch-size", "2", "--max-steps", "5", "--save-steps", "0"]


def has_mpi():
    libraries = subprocess.run(["ldd", str(BUILD / "fastvlm")], capture_output=True, text=True).stdout
    return "libmpi" in libraries


pytestmark = [pytest.mark.skipif(not MPIRUN, reason="there is no mpirun"),
              pytest.mark.skipif(bool(WRAPPER) or SLOWNESS > 1, reason="not under an emulator or a sanitizer"),
              pytest.mark.skipif(not WRAPPER and not has_mpi(), reason="this build has no MPI")]


def command(ranks, data, output, *more):
    launcher = [MPIRUN, "--oversubscribe", "-n", ranks] if ranks else []
    return list(map(str, [*launcher, BUILD / "fastvlm", "train", "--model", MODEL, "--data", data, "--image-folder", IMAGES,
                          "--output", output, "--threads", "1", "--quiet", *more]))


def train(ranks, *arguments):
    return Result(subprocess.run(command(ranks, *arguments), capture_output=True, env=ENVIRONMENT, timeout=120))


def losses(folder):
    return np.array([entry["loss"] for entry in log(folder)])


def samples():
    """Texts of unlike lengths with a picture, with two and without; their number leaves some ranks without a batch."""
    pictures = ["photo.jpg", "shapes.png", None, "grey.png", ["photo.jpg", "grey.png"]]
    made = []
    for i in range(19):
        picture = pictures[i % 5]
        marks = "<image>\n" * (len(picture) if isinstance(picture, list) else int(bool(picture)))
        made.append(sample(str(i), picture, f"{marks}What is {i}?", "A thing, " * (i % 4) + f"number {i}."))
    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (folder / "data.json").write_text(json.dumps(samples()))
    result = train(0, folder / "data.json", folder / "out", *RUN, "--gradient-accumulation-steps", "4", "--json")
    return folder / "data.json", folder / "out", result.json


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_losses_and_memory(alone, zero, ranks, tmp_path):
    """Five steps of eight samples go into a second epoch; the last step of the first has three."""
    data, out, whole = alone
    result = train(ranks, data, tmp_path / "out", *RUN, "--gradient-accumulation-steps", 4 // ranks, "--zero", zero, "--json")
    memory = result.json["memory"]
    assert np.abs(losses(tmp_path / "out") - losses(out)).max() < 1e-5
    assert result.json["ranks"] == ranks
    for name, stage in (("states", 1), ("gradients", 2), ("weights", 3)):
        share = memory[name] / whole["memory"][name]
        # Of vectors shorter than 256 for each rank the first ranks have more; running statistics are whole.
        assert share == 1 if zero < stage else 1 / ranks <= share < 1 / ranks + 0.08, (name, share)
    before, after = read_all(out / "model.safetensors"), read_all(tmp_path / "out" / "model.safetensors")
    for name, value in before.items():
        assert np.linalg.norm(after[name] - value) <= 0.02 * np.linalg.norm(value) + 1e-6, name
    plan = train(0, data, tmp_path / "x", *RUN, "--gradient-accumulation-steps", 4 // ranks, "--zero", zero, "--plan",
                 "--plan-ranks", ranks, "--json").json["plan"][0]
    assert {name: plan[name] for name in ("weights", "gradients", "states", "slots")} == {
        name: memory[name] for name in ("weights", "gradients", "states", "slots")}
    # Values that are still there from the step before need not come again.
    assert 0.8 * 5 * plan["sent"] <= memory["sent"] <= 5 * plan["sent"]


def test_statistics_of_batches(alone, tmp_path):
    data, _, _ = alone
    more = [*RUN, "--batch-norm", "batch", "--gradient-checkpointing", "true"]
    train(0, data, tmp_path / "one", *more, "--gradient-accumulation-steps", "2")
    train(2, data, tmp_path / "two", *more, "--zero", "3")
    assert np.abs(losses(tmp_path / "one") - losses(tmp_path / "two")).max() < 1e-5


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """The model with a head of its own, which shares its place in memory with the embeddings from stage 2 on."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(MODEL, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    data = (folder / index["weight_map"]["model.embed_tokens.weight"]).read_bytes()
    length = int.from_bytes(data[:8], "little")
    embedding = json.loads(data[8 : 8 + length])["model.embed_tokens.weight"]
    begin, end = embedding["data_offsets"]
    text = json.dumps({"lm_head.weight": {**embedding, "data_offsets": [0, end - begin]}}).encode()
    (folder / "head.safetensors").write_bytes(len(text).to_bytes(8, "little") + text
                                              + data[8 + length + begin : 8 + length + end])
    index["weight_map"]["lm_head.weight"] = "head.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


def test_a_head_of_its_own(alone, untied, tmp_path):
    data, _, _ = alone
    common = [*RUN, "--model", untied, "--gradient-accumulation-steps"]
    assert train(0, data, tmp_path / "one", *common, "4").code == 0
    for zero in (2, 3):
        assert train(2, data, tmp_path / str(zero), *common, "2", "--zero", zero).code == 0
        assert np.abs(losses(tmp_path / "one") - losses(tmp_path / str(zero))).max() < 1e-5
    after = read_all(tmp_path / "3" / "model.safetensors")
    assert np.abs(after["lm_head.weight"] - after["model.embed_tokens.weight"]).max() > 1e-4


@pytest.mark.parametrize("zero", [1, 3])
def test_resuming_is_exact_and_elastic(alone, zero, tmp_path):
    data, out, _ = alone
    two = [*RUN, "--gradient-accumulation-steps", "2", "--zero", zero]
    assert train(2, data, tmp_path / "whole", *two, "--save-steps", "2").code == 0
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert len(list(checkpoint.glob("optimizer-*-of-00002.safetensors"))) == 2
    assert train(2, data, tmp_path / "again", *two, "--resume-from", checkpoint).code == 0
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")
    for ranks in (0, 4):
        new = tmp_path / str(ranks)
        assert train(ranks, data, new, *RUN, "--gradient-accumulation-steps", 1 if ranks else 4, "--zero", zero,
                     "--resume-from", checkpoint).code == 0
        assert np.abs(losses(new) - losses(out)[2:]).max() < 1e-5
    train(2, data, tmp_path / "other", *RUN, "--resume-from", checkpoint).failed(2, "samples_of_a_step was 8 and is 4 now")


@pytest.mark.parametrize("zero", [1, 3])
def test_adapters(alone, zero, tmp_path):
    data, _, _ = alone
    lora = [*RUN, "--tune=projector,llm", "--lora", "true", "--lora-r", "4", "--lora-alpha", "8"]
    assert train(0, data, tmp_path / "one", *lora, "--gradient-accumulation-steps", "2").code == 0
    assert train(2, data, tmp_path / "two", *lora, "--zero", zero).code == 0
    assert np.abs(losses(tmp_path / "one") - losses(tmp_path / "two")).max() < 1e-5
    one, two = (read_all(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        assert np.linalg.norm(two[name] - value) <= 1e-2 * np.linalg.norm(value), name
    assert (tmp_path / "two" / "non_lora_trainables.bin").exists()
    assert sorted(path.name for path in (tmp_path / "two").glob("*.part")) == []


def test_a_fault_of_one_rank_ends_all(alone, tmp_path):
    bad = samples()
    bad[11] = sample("bad", "missing.jpg", "<image>\nA?", "B.")  # the second rank's, in the third step
    (tmp_path / "data.json").write_text(json.dumps(bad))
    run = [tmp_path / "data.json", tmp_path / "out", *RUN, "--no-shuffle"]
    train(2, *run).failed(1, "data.json, sample 12", "missing.jpg")
    result = train(2, *run, "--max-bad-samples", "1", "--json")
    assert result.json["skipped"] == 1 and "skipped: " in result.err and "sample 12" in result.err


def test_faults_of_all_ranks_are_told_once(alone, tmp_path):
    data, _, _ = alone
    train(2, data, tmp_path / "out", *RUN, "--zero", "4").failed(2, "ZeRO")
    train(2, tmp_path / "none.json", tmp_path / "out", *RUN).failed(1, "none.json")
    train(2, data, tmp_path / "out", *RUN, "--schedule", "x").failed(2, "--schedule")
    (tmp_path / "file").write_text("")
    train(2, data, tmp_path / "file" / "out", *RUN).failed(1, "file")


def children(process):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = open(f"/proc/{entry}/stat").read()
                line = open(f"/proc/{entry}/cmdline").read()
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == process.pid and "fastvlm\0train" in line:
                found.append(int(entry))
    return found


def alive(process):
    """Whether it runs; one that waits for its parent's look does not."""
    try:
        return open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("target", ["launcher", "rank"])
def test_a_signal_makes_a_checkpoint_everywhere(alone, target, tmp_path):
    data, _, _ = alone
    new = tmp_path / "out"
    process = subprocess.Popen(command(2, data, new, *RUN, "--max-steps", "100000", "--zero", "2"), env=ENVIRONMENT,
                               stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (new / "log.jsonl").exists() or not log(new):
        assert time.monotonic() < end
        time.sleep(0.05)
    if target == "launcher":
        process.send_signal(signal.SIGUSR1)  # which mpirun passes on
    else:
        os.kill(max(children(process)), signal.SIGTERM)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1 and errors.count("--resume goes on") == 1, errors
    (checkpoint,) = new.glob("checkpoint-*")
    assert int(checkpoint.name.split("-")[1]) == log(new)[-1]["step"]
    assert len(list(checkpoint.glob("optimizer-*.safetensors"))) == 2


def test_a_lost_rank_ends_all(alone, tmp_path):
    data, _, _ = alone
    new = tmp_path / "out"
    process = subprocess.Popen(command(2, data, new, *RUN, "--max-steps", "100000"), env=ENVIRONMENT,
                               stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (new / "log.jsonl").exists() or not log(new):
        assert time.monotonic() < end
        time.sleep(0.05)
    ranks = children(process)
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    end = time.monotonic() + 30
    while any(alive(rank) for rank in ranks):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_other_states_packs_and_evaluation(alone, tmp_path):
    """8-bit moments, averages, packs and evaluation: as one process, and bit by bit after a resume."""
    data, _, _ = alone
    more = [*RUN, "--optim", "adamw_8bit", "--ema-decay", "0.5", "--packing", "300", "--eval-data", data, "--eval-steps", "2"]
    assert train(0, data, tmp_path / "one", *more, "--batch-size", "4").code == 0
    assert train(2, data, tmp_path / "two", *more, "--zero", "3", "--save-steps", "2").code == 0
    one, two = ({(entry["step"], name): entry[name] for entry in log(tmp_path / folder)
                 for name in ("loss", "eval_loss") if name in entry} for folder in ("one", "two"))
    assert one.keys() == two.keys() and len(one) == 8
    assert max(abs(one[key] - two[key]) for key in one) < 1e-4  # rounding to 8 bits makes more of small differences
    assert train(2, data, tmp_path / "again", *more, "--zero", "3", "--resume-from", tmp_path / "two" / "checkpoint-2").code == 0
    assert weights(tmp_path / "again") == weights(tmp_path / "two")
