"""Training against PyTorch: labels, every parameter's gradient with both kinds of batch norm statistics, ten AdamW steps.

The shared fixtures keep whole tensors, the set in this folder norms and products (tools/oracle_training.py).
"""

import json
import math

import numpy as np
import pytest

from golden_set import chosen_set, read_safetensors, run

GOLDEN = chosen_set()
SHARED = (GOLDEN.folder / "grads.safetensors").exists()
EXPECTED = GOLDEN.expected if SHARED else json.loads((GOLDEN.folder / "training.json").read_text())
SAMPLES = EXPECTED["train" if SHARED else "samples"]
BAR = 1e-4  # relative L2
LOSS_BAR = 1e-4
BF16_BAR = 0.05
BF16_LOSS_BAR = 1e-2
# In the set of this folder rounding grows to a thousandth by the tenth step: plain C and AVX2 end on two sides of it.
NORM_BAR = 1e-3 if SHARED else 3e-3
# Keys' biases hardly change what a layer does, in the slow rotary dimensions not at all: those gradients are rounding,
# which AdamW makes as large as any other step. PyTorch's own float32 steps end 1.3e-4 from its float64 ones.
KEY_BIAS_BAR = 5e-4


def named(probes):
    names = [name.replace("tower.", "model.vision_tower.vision_tower.model.") for name in EXPECTED["names"]]
    return dict(zip(names, probes, strict=True))


def probe(values):
    """As in tools/oracle_training.py, but the products as they are."""
    values = np.asarray(values, np.float64).ravel()
    at = np.arange(1, values.size + 1)
    return np.array([np.linalg.norm(values), values @ np.sin(at), values @ np.cos(math.pi * at**1.5)])


def relative(got, expected):
    """Relative L2, or its estimate from the probes, each of which a random error moves by its L2 times 0.7."""
    if SHARED:
        expected = expected.astype(np.float64)
        return np.linalg.norm(got - expected) / np.linalg.norm(expected)
    return float(np.abs(probe(got) / expected[0] - expected * [1 / expected[0], 1e-6, 1e-6]).max())


def check(got, expected, bar):
    assert sorted(got) == sorted(expected)
    errors = {name: relative(got[name], np.asarray(expected[name])) for name in expected}
    worst = max(errors, key=errors.get)
    print(f"{len(errors)} parameters, worst {errors[worst]:.2e} in {worst}")
    over = {name: error for name, error in errors.items() if not error <= bar(name)}
    assert over == {}


def train(*options):
    data = GOLDEN.folder / "train.json"
    return run(
        "train", "--model", GOLDEN.folder / "llava", "--data", data, "--image-folder", GOLDEN.images, "--batch-size",
        len(SAMPLES), "--no-shuffle", "--quiet", *options,
    )


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("statistics,name", [("running", "bn_eval"), ("batch", "bn_train")])
def test_gradients(statistics, name, checkpointing, tmp_path):
    out = tmp_path / "gradients.safetensors"
    answer = train(
        "--tune", "vision,projector,llm", "--batch-norm", statistics, "--gradient-checkpointing", checkpointing,
        "--dump-grads", out, "--json",
    )
    assert json.loads(answer)["loss"] == pytest.approx(EXPECTED[f"loss_{name}"], abs=LOSS_BAR)
    if SHARED:
        whole = read_safetensors(GOLDEN.folder / "grads.safetensors")
        expected = {key[len(name) + 1 :]: value for key, value in whole.items() if key.startswith(name + "/")}
    else:
        expected = named(EXPECTED[name])
    check(read_safetensors(out), expected, lambda parameter: BAR)


def test_only_what_is_tuned_has_gradients(tmp_path):
    out = tmp_path / "gradients.safetensors"
    train("--tune", "projector", "--dump-grads", out)
    got = read_safetensors(out)
    assert got and all(name.startswith("model.mm_projector.") for name in got)
    train("--tune", "vision,llm", "--dump-grads", out)
    both = read_safetensors(out)
    assert not any(name.startswith("model.mm_projector.") for name in both)
    train("--tune", "vision,projector,llm", "--dump-grads", out)
    for name, value in read_safetensors(out).items():
        other = got[name] if name in got else both[name]  # a frozen tower's batch norm is folded into its convolutions
        assert np.linalg.norm(value - other) <= BAR * np.linalg.norm(value), name


def test_accumulated_batches_are_one_batch(tmp_path):
    train("--dump-grads", tmp_path / "one.safetensors")
    train("--batch-size", 1, "--gradient-accumulation-steps", 3, "--dump-grads", tmp_path / "three.safetensors")
    one, three = (read_safetensors(tmp_path / f"{name}.safetensors") for name in ("one", "three"))
    for name, value in one.items():
        assert np.linalg.norm(three[name] - value) <= 1e-5 * np.linalg.norm(value), name


def test_adamw(tmp_path):
    adamw = EXPECTED["adamw"]
    train(
        "--tune", "vision,projector,llm", "--lr", adamw["lr"], "--weight-decay", adamw["weight_decay"], "--decay-all",
        "--warmup-steps", adamw["warmup_steps"], "--max-steps", adamw["total_steps"], "--save-steps",
        adamw["total_steps"], "--output", tmp_path,
    )
    steps = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(steps) == len(adamw["steps"])
    for got, expected in zip(steps, adamw["steps"]):
        assert got["loss"] == pytest.approx(expected["loss"], abs=LOSS_BAR)
        assert got["grad_norm"] == pytest.approx(expected["grad_norm"], rel=NORM_BAR)
        assert got["learning_rate"] == pytest.approx(expected["lr"], rel=1e-9)
    # The model itself is rounded to the types it came in; the state is not.
    state = read_safetensors(tmp_path / f"checkpoint-{adamw['total_steps']}" / "optimizer.safetensors")
    after = read_safetensors(GOLDEN.folder / "after_adamw.safetensors") if SHARED else named(adamw["after"])
    check(
        {name: state[f"value/{name}"] for name in after},
        after,
        lambda name: KEY_BIAS_BAR if name.endswith("k_proj.bias") else BAR,
    )


def test_labels(tmp_path):
    out = tmp_path / "labels.jsonl"
    train("--dump-labels", out)
    got = [json.loads(line) for line in out.read_text().splitlines()]
    assert got == [{key: sample[key] for key in ("input_ids", "labels")} for sample in SAMPLES]


def test_bf16_gradients(tmp_path):
    """Products of rounded numbers move each gradient a little."""
    gradients, losses = {}, {}
    for precision, flag in (("fp32", "false"), ("bf16", "true")):
        out = tmp_path / f"{precision}.safetensors"
        answer = train("--tune", "projector,llm", "--bf16", flag, "--dump-grads", out, "--json")
        gradients[precision], losses[precision] = read_safetensors(out), json.loads(answer)["loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=BF16_LOSS_BAR)
    errors = [
        float(np.linalg.norm(gradients["bf16"][name] - value) / np.linalg.norm(value))
        for name, value in gradients["fp32"].items()
    ]
    assert 1e-3 < max(errors) <= BF16_BAR


def overfit(folder, steps, *options, model="llava"):
    data = GOLDEN.folder / "train.json"
    run(
        "train", "--model", GOLDEN.folder / model, "--data", data, "--image-folder", GOLDEN.images, "--batch-size",
        len(SAMPLES), "--quiet", "--save-steps", 0, "--schedule", "constant", "--max-steps", steps, "--output", folder,
        *options,
    )
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    return losses[0], min(losses[-3:])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_everything_learns_its_samples_by_heart(precision, tmp_path):
    options = ["--tune", "vision,projector,llm", "--lr", 2e-3, "--precision", precision]
    first, last = overfit(tmp_path, 250 if SHARED else 40, *options)
    assert first > 2 and last < 0.01


def least_loss():
    """What no adapter can get below: the final norm gives rows of one length, and the output layer behind it is frozen.
    The mean over the targets of the least loss that any such row gives, by descent on the rows."""
    weights = {}
    for path in (GOLDEN.folder / "llava").glob("*.safetensors"):
        weights |= read_safetensors(path)
    embedding = np.asarray(weights.get("lm_head.weight", weights["model.embed_tokens.weight"]), np.float64)
    output = embedding * np.asarray(weights["model.norm.weight"], np.float64)
    targets = [label for sample in SAMPLES for label in sample["labels"] if label >= 0]
    rows = output[targets] - output.mean(axis=0)
    for _ in range(400):
        rows *= math.sqrt(output.shape[1]) / np.linalg.norm(rows, axis=1, keepdims=True)
        logits = rows @ output.T
        logits -= logits.max(axis=1, keepdims=True)
        likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses = -np.log(likely[np.arange(len(targets)), targets])
        rows += 10 * (output[targets] - likely @ output)
    return losses.mean()


@pytest.mark.parametrize("model", ["llava", "apple_int4", "apple_int8"])
def test_adapters_learn_their_samples_by_heart(model, tmp_path):
    options = ["--tune", "llm", "--lora", "true", "--lora-r", 16, "--lora-alpha", 32, "--lr", 1e-2]
    first, last = overfit(tmp_path, 80 if SHARED else 40, *options, model=model)
    least = least_loss() if SHARED else 0  # the own set's output layer is larger, and bounds nothing
    assert first > 2 and last < least + 0.01


def test_a_projector_learns_what_the_frozen_model_lets_it(tmp_path):
    first, last = overfit(tmp_path, 60, "--tune", "projector", "--lr", 1e-2)
    assert last < first - 0.3
