"""train: runs that are resumed, stopped and killed end like one that is left alone; data in every form, good and bad."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from conftest import BUILD, GOLDEN, WRAPPER

IMAGES = GOLDEN / "images"
MODEL = GOLDEN / "llava"
SLOWNESS = int(os.environ.get("FVLM_SLOWNESS", "1"))


def sample(name, image, *turns, **more):
    conversation = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
    return {"id": name, **({"image": image} if image else {}), "conversations": conversation, **more}


SAMPLES = [
    sample("photo", "photo.jpg", "<image>\nWhat is this?", "Lines.", "Sure?", "Yes."),
    sample("shapes", "shapes.png", "Name it.\n<image>", "A drawing"),
    sample("text", None, "Say hello.", "Hello, world!"),
    sample("both", ["photo.jpg", "shapes.png"], "<image>\n<image>\nCompare.", "They differ."),
    sample("long", "grey.png", "<image>\nTell more.", "It is grey, and then grey again, and it stays so."),
]


@pytest.fixture
def write(tmp_path):
    def run(samples, name="data.json", lines=False):
        data = tmp_path / name
        data.write_text("\n".join(map(json.dumps, samples)) if lines else json.dumps(samples))
        return data

    return run


def arguments(data, output, *more, model=MODEL):
    return ["train", "--model", model, "--data", data, "--image-folder", IMAGES, "--output", output, "--quiet", *more]


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def read_all(path):
    """Name -> float32 array of a safetensors file; bf16 becomes float32."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__" or entry["dtype"] == "I64":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        kind = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[entry["dtype"]]
        array = np.frombuffer(data[begin:end], kind)
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array.astype(np.float32).reshape(entry["shape"])
    return tensors


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


RUN = ["--tune", "vision,projector,llm", "--batch-norm", "batch", "--lr", "1e-3", "--batch-size", "2", "--max-steps", "9",
       "--save-steps", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The data, and the result of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "data.json").write_text(json.dumps(SAMPLES))
    command = [*WRAPPER, BUILD / "fastvlm", *arguments(folder / "data.json", folder / "out", *RUN)]
    assert subprocess.run(list(map(str, command)), timeout=60 * SLOWNESS).returncode == 0
    return folder / "data.json", folder / "out"


def test_a_run_leaves_a_model_and_checkpoints(whole, fastvlm):
    data, out = whole
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 4, 6, 8)]
    assert [entry["step"] for entry in log(out)] == list(range(1, 10))
    assert all(entry["tokens"] > 0 and entry["loss"] > 0 for entry in log(out))
    assert log(out)[-1]["loss"] < log(out)[0]["loss"]
    for folder in (out, out / "checkpoint-4"):
        answer = fastvlm("predict", "--model", folder, "--image", IMAGES / "photo.jpg", "--prompt", "What is this?",
                         "--max-tokens", "3", "--json").json
        assert answer["tokens"]
    assert weights(out) != weights(out / "checkpoint-8")


def test_the_same_run_is_the_same_on_any_threads(whole, fastvlm, tmp_path):
    data, out = whole
    assert fastvlm(*arguments(data, tmp_path / "again", *RUN, "--threads", "3")).code == 0
    assert weights(tmp_path / "again") == weights(out)
    assert fastvlm(*arguments(data, tmp_path / "other", *RUN, "--seed", "7")).code == 0
    assert weights(tmp_path / "other") != weights(out)


def test_resume_from_every_checkpoint(whole, fastvlm, tmp_path):
    data, out = whole
    for step in (2, 4, 6, 8):
        new = tmp_path / str(step)
        assert fastvlm(*arguments(data, new, *RUN, "--resume-from", out / f"checkpoint-{step}")).code == 0
        assert weights(new) == weights(out)
        assert [entry["step"] for entry in log(new)] == list(range(step + 1, 10))


def test_killed_runs_end_alike(whole, tmp_path):
    data, out = whole
    new, chooser = tmp_path / "killed", random.Random(1)
    command = [*WRAPPER, BUILD / "fastvlm", *arguments(data, new, *RUN, "--resume")]
    for _ in range(6):
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
        time.sleep(chooser.uniform(0.05, 0.7) * SLOWNESS)
        process.kill()
        process.wait()
        for checkpoint in new.glob("checkpoint-*[0-9]"):
            assert {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"} <= {
                path.name for path in checkpoint.iterdir()}
    assert subprocess.run(list(map(str, command)), timeout=120 * SLOWNESS).returncode == 0
    assert weights(new) == weights(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_a_signal_makes_a_checkpoint(whole, number, tmp_path):
    data, out = whole
    new = tmp_path / "stopped"
    command = list(map(str, [*WRAPPER, BUILD / "fastvlm", *arguments(data, new, *RUN[:-4], "--max-steps", "100000",
                                                                    "--save-steps", "0")]))
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not (new / "log.jsonl").exists() or not log(new):
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate(timeout=60 * SLOWNESS)[1].decode()
    assert process.returncode == 1 and "--resume goes on" in errors
    (checkpoint,) = new.glob("checkpoint-*")
    assert int(checkpoint.name.split("-")[1]) == log(new)[-1]["step"]


def test_only_the_newest_checkpoints_are_kept(whole, fastvlm, tmp_path):
    data, _ = whole
    assert fastvlm(*arguments(data, tmp_path / "out", *RUN, "--save-total-limit", "2")).code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


def test_resuming_another_run_is_refused(whole, fastvlm, tmp_path):
    data, out = whole
    from_four = ["--resume-from", out / "checkpoint-4"]
    fastvlm(*arguments(data, tmp_path / "a", *RUN, *from_four, "--seed", "3")).failed(2, "another run", "seed")
    fastvlm(*arguments(data, tmp_path / "b", *RUN, *from_four, "--batch-size", "1")).failed(2, "batch_size")
    changes = {"vision,projector,llm": "llm,projector,vision", "batch": "running", "9": "10"}
    changed = [changes.get(word, word) for word in RUN]
    fastvlm(*arguments(data, tmp_path / "c", *changed, *from_four)).failed(2, "steps")
    broken = tmp_path / "broken"
    shutil.copytree(out / "checkpoint-4", broken)
    (broken / "optimizer.safetensors").write_bytes((broken / "optimizer.safetensors").read_bytes()[:-4])
    fastvlm(*arguments(data, tmp_path / "d", *RUN, "--resume-from", broken)).failed(1, "optimizer.safetensors")


@pytest.mark.parametrize("layout", ["llava_bin", "hf"])
def test_a_model_keeps_its_layout(layout, fastvlm, write, tmp_path):
    """With a rate of 0 nothing changes, whatever the files' names and types are."""
    out = tmp_path / "out"
    data = write(SAMPLES[:2])
    result = fastvlm(*arguments(data, out, "--tune", "vision,projector,llm", "--lr", "0", "--max-steps", "1",
                                model=GOLDEN / layout))
    assert result.code == 0, result.err
    assert (out / "config.json").read_bytes() == (GOLDEN / layout / "config.json").read_bytes()
    question = ["--image", IMAGES / "photo.jpg", "--prompt", "What is this?", "--max-tokens", "8", "--temperature", "0"]
    before, after = (fastvlm("predict", "--model", model, *question, "--json").json for model in (GOLDEN / layout, out))
    assert before["tokens"] == after["tokens"]


def test_it_learns(fastvlm, write, tmp_path):
    """Three samples by heart: a loss below 0.01, and the answers themselves."""
    data = write(SAMPLES[:3])
    result = fastvlm(*arguments(data, tmp_path / "out", "--tune", "vision,projector,llm", "--lr", "1e-2", "--batch-size",
                                "3", "--max-steps", "60", "--save-steps", "0", "--json"), timeout=300 * SLOWNESS)
    assert result.json["loss"] < 0.01
    answer = fastvlm("predict", "--model", tmp_path / "out", "--image", IMAGES / "photo.jpg", "--prompt", "What is this?",
                     "--temperature", "0", "--json").json
    assert answer["text"] == "Lines." and answer["finish_reason"] == "stop"


# Adapters.

LORA = ["--lora", "true", "--lora-r", "4", "--lora-alpha", "6", "--batch-size", "5", "--no-shuffle", "--save-steps", "3"]
PROJECTIONS = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Data, and an adapter after three steps."""
    folder = tmp_path_factory.mktemp("adapted")
    (folder / "data.json").write_text(json.dumps(SAMPLES))
    command = [*WRAPPER, BUILD / "fastvlm", *arguments(folder / "data.json", folder / "out", *LORA, "--lr", "1e-2",
                                                      "--max-steps", "3", "--threads", "1")]
    assert subprocess.run(list(map(str, command)), timeout=60 * SLOWNESS).returncode == 0
    return folder / "data.json", folder / "out"


def test_an_adapter_is_merged(adapted, fastvlm, tmp_path):
    """W + alpha / r B A in every layer, and the projector that was trained beside it."""
    _, out = adapted
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 6)
    assert fastvlm("merge", "--model", MODEL, "--adapter", out, "--output", tmp_path / "merged").code == 0
    before = {name: value for path in MODEL.glob("*.safetensors") for name, value in read_all(path).items()}
    after, adapter = read_all(tmp_path / "merged" / "model.safetensors"), read_all(out / "adapter_model.safetensors")
    state = read_all(out / "checkpoint-3" / "optimizer.safetensors")
    assert sorted(before) == sorted(after) and len(adapter) == 2 * 7 * 2
    for name, value in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = value
        if f"{stem}.lora_A.weight" in adapter:
            expected = value + 1.5 * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
            assert np.abs(after[name] - value).max() > 0
        elif f"value/{name}" in state:
            assert name.startswith("model.mm_projector.")
            expected = state[f"value/{name}"]
        assert np.abs(after[name] - expected).max() <= np.abs(expected).max() * 2**-8, name
    for name in ("model.mm_projector.0.weight", "model.mm_projector.2.bias"):
        assert np.abs(after[name] - before[name]).max() > 0


def test_gradients_of_adapters(adapted, fastvlm, tmp_path):
    """dB = s dW A^T and dA = s B^T dW, with dW the whole weight's gradient in the merged model."""
    data, out = adapted
    merged = tmp_path / "merged"
    assert fastvlm("merge", "--model", MODEL, "--adapter", out, "--output", merged).code == 0
    result = fastvlm(*arguments(data, tmp_path / "x", *LORA, "--max-steps", "6", "--dump-grads", tmp_path / "lora"))
    assert result.code == 0, result.err
    first = read_all(tmp_path / "lora")
    assert all(np.abs(value).max() == 0 for name, value in first.items() if "lora_A" in name)
    result = fastvlm(*arguments(data, tmp_path / "x", *LORA, "--max-steps", "3", "--resume-from", out / "checkpoint-3",
                                "--max-steps", "3", "--dump-grads", tmp_path / "lora"))
    assert result.code == 0, result.err
    got, adapter = read_all(tmp_path / "lora"), read_all(out / "adapter_model.safetensors")
    result = fastvlm(*arguments(data, tmp_path / "x", "--batch-size", "5", "--no-shuffle", "--dump-grads",
                                tmp_path / "whole", model=merged))
    assert result.code == 0, result.err
    whole = read_all(tmp_path / "whole")
    for layer in range(2):
        for part in PROJECTIONS:
            stem = f"model.layers.{layer}.{part}"
            a, b = (adapter[f"base_model.model.{stem}.lora_{which}.weight"] for which in "AB")
            gradient = whole[f"{stem}.weight"]
            for name, expected in (("lora_B", 1.5 * gradient @ a.T), ("lora_A", 1.5 * b.T @ gradient)):
                error = np.linalg.norm(got[f"{stem}.{name}.weight"] - expected) / np.linalg.norm(expected)
                assert error < 0.05, (stem, name, error)  # merging rounds to bf16


@pytest.mark.parametrize("base", ["apple_int4", "apple_int8", "gguf"])
def test_adapters_of_a_quantised_model(base, fastvlm, write, tmp_path):
    model = GOLDEN / base
    if base == "gguf":
        model = tmp_path / "base.gguf"
        assert fastvlm("convert", "--model", MODEL, "--output", model, "--type", "q8_0").code == 0
    data = write(SAMPLES[:3])
    result = fastvlm(*arguments(data, tmp_path / "out", *LORA, "--batch-size", "3", "--lr", "1e-2", "--max-steps", "12",
                                model=model), "--json")
    losses = [entry["loss"] for entry in log(tmp_path / "out")]
    assert result.json["step"] == 12 and losses[-1] < losses[0] - 0.3
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_merging_what_does_not_fit(adapted, fastvlm, tmp_path):
    _, out = adapted
    fastvlm("merge", "--model", GOLDEN / "apple_int4", "--adapter", out, "--output", tmp_path / "a").failed(1, "quantised")
    fastvlm("merge", "--model", GOLDEN / "hf", "--adapter", out, "--output", tmp_path / "b").failed(1, "another model")
    fastvlm("merge", "--model", MODEL, "--adapter", MODEL, "--output", tmp_path / "c").failed(1, "adapter_config.json")
    fastvlm("merge", "--model", MODEL, "--adapter", out, "--output", out).failed(2, "--output")
    fastvlm("merge", "--model", MODEL, "--adapter", out).failed(2, "--output is missing")


# Data.


@pytest.fixture
def labels(fastvlm, tmp_path):
    def run(data, count, *more):
        out = tmp_path / "labels.jsonl"
        result = fastvlm("train", "--model", MODEL, "--data", data, "--image-folder", IMAGES, "--no-shuffle",
                         "--batch-size", str(count), "--dump-labels", out, *more)
        assert result.code == 0, result.err
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


def as_messages(entry):
    """The same conversation in the other form, pictures as parts."""
    turns = []
    for turn in entry["conversations"]:
        texts = turn["value"].split("<image>")
        content = turn["value"]
        if len(texts) > 1:
            content = [{"type": "text", "text": texts[0]}]
            for text in texts[1:]:
                content += [{"type": "image"}, {"type": "text", "text": text}]
        turns.append({"role": {"human": "user", "gpt": "assistant"}[turn["from"]], "content": content})
    images = entry.get("image", [])
    return {"messages": turns, "images": images if isinstance(images, list) else [images]}


def test_every_form_gives_the_same_samples(labels, write):
    expected = labels(write(SAMPLES), 5)
    assert labels(write(SAMPLES, "data.jsonl", lines=True), 5) == expected
    assert labels(write(list(map(as_messages, SAMPLES))), 5) == expected
    share = [{**entry, "conversations": [{**turn, "from": {"human": "user", "gpt": "assistant"}[turn["from"]]}
                                         for turn in entry["conversations"]]} for entry in SAMPLES]
    assert labels(write(share), 5) == expected
    assert [entry["input_ids"].count(-200) for entry in expected] == [1, 1, 0, 2, 1]


def answers_end(name):
    """What a template writes around an answer, beyond the turn that is left open for it."""
    if name in ("llama_2", "llava_llama_2", "mistral_instruct"):
        return " {} </s>"
    if name in ("v1", "vicuna_v1", "llava_v1", "v1_mmtag"):
        return " {}</s>"
    if name in ("v0", "llava_v0", "v0_mmtag"):
        return " {}###"
    return {"default": "{}<|im_end|>\n", "qwen_2": "{}<|im_end|>\n", "plain": "{}\n", "v0_plain": "{}\n"}.get(
        name, "{}<|im_end|>")


def test_every_template_supervises_the_answers(labels, write, fastvlm):
    """The pieces between answers and the answers with their ends, each tokenised by itself."""
    turns = [("human", "Say hello."), ("gpt", "Hello, world!"), ("human", "Again."), ("gpt", "Once more.")]
    data = write([sample("text", None, *(text for _, text in turns))])
    names = fastvlm("template", "--list").out.split()
    assert len(names) > 10
    for name in names:
        line = json.dumps({"template": name, "turns": [["ua"[i % 2], text] for i, (_, text) in enumerate(turns)]})
        rest, pieces = json.loads(fastvlm("template", "--jsonl", input=line.encode()).out)["prompt"], []
        for _, answer in turns[1::2]:
            supervised = answers_end(name).format(answer)
            question, rest = rest.split(supervised, 1)
            pieces += [question, supervised]
        assert rest == "", name
        lines = "\n".join(json.dumps({"text": text}) for text in pieces)
        out = fastvlm("tokenize", "--model", MODEL, "--jsonl", input=lines.encode()).out
        ids = [json.loads(line)["ids"] for line in out.splitlines()]
        (made,) = labels(data, 1, "--template", name)
        assert made["input_ids"] == [token for piece in ids for token in piece], name
        assert made["labels"] == [token if i % 2 else -100 for i, piece in enumerate(ids) for token in piece], name


def test_files_mix_by_weight(labels, write, fastvlm):
    first = write([sample(f"a{i}", None, "A?", f"first {i}") for i in range(4)], "a.json")
    second = write([sample(f"b{i}", None, "B?", f"second {i}") for i in range(4)], "b.json")
    both = labels(first, 16, "--data", second, "--data-weights", "2,0.5")
    assert len(both) == 10
    fastvlm("train", "--model", MODEL, "--data", first, "--data-weights", "1,2", "--output", "x").failed(2, "--data-weights")


def test_order_depends_on_the_seed_alone(labels, write):
    data = write([sample(str(i), None, "Which?", f"Number {i}.") for i in range(30)])
    plain = labels(data, 30)
    orders = [labels(data, 30, "--seed", seed) for seed in ("1", "1", "2")]
    assert orders[0] == plain == orders[2]  # --no-shuffle


BAD = {
    "no picture": (sample("x", "missing.jpg", "<image>\nA?", "B."), "missing.jpg"),
    "not a picture": (sample("x", "../expected.json", "<image>\nA?", "B."), "expected.json"),
    "roles": ({"conversations": [{"from": "gpt", "value": "A"}, {"from": "human", "value": "B"}]}, "turn 1"),
    "odd": (sample("x", None, "A?"), "1 turns"),
    "no mark": (sample("x", "photo.jpg", "A?", "B."), "1 pictures are given and 0 <image>"),
    "two marks": (sample("x", "photo.jpg", "<image><image>A?", "B."), "1 pictures are given and 2 <image>"),
    "mark in an answer": (sample("x", "photo.jpg", "<image>\nA?", "B <image>."), "the answer in turn 2 has an <image>"),
    "empty answer": (sample("x", None, "A?", ""), "the answer in turn 2 is empty"),
    "too long": (sample("x", None, "A?", "B " * 5000), "4096 are the limit"),
    "no conversation": ({"id": "x"}, "neither"),
    "not an object": ([1], "not a JSON object"),
    "not JSON": ("text", "not valid JSON"),
    "a number": (sample("x", None, "A?", 7), "turn 2 has no text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sample_is_named(name, fastvlm, write, tmp_path):
    bad, words = BAD[name]
    data = write([SAMPLES[2], bad, SAMPLES[2]])
    common = ["--no-shuffle", "--max-steps", "3", "--save-steps", "0", "--tune", "projector", "--json"]
    fastvlm(*arguments(data, tmp_path / "a", *common)).failed(1, "data.json, sample 2", words, "--max-bad-samples")
    result = fastvlm(*arguments(data, tmp_path / "b", *common, "--max-bad-samples", "1"))
    assert result.json["skipped"] == 1 and "skipped: " in result.err and "sample 2" in result.err


def test_a_broken_line_harms_no_other(fastvlm, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([json.dumps(SAMPLES[2]), '{"conversations": [', "", json.dumps(SAMPLES[2])]))
    result = fastvlm(*arguments(data, tmp_path / "a", "--max-steps", "3", "--max-bad-samples", "1", "--json"))
    assert result.json["skipped"] == 1 and "sample 2" in result.err


def test_bad_files_and_options(fastvlm, write, tmp_path):
    data, out = write(SAMPLES), tmp_path / "out"
    for text, words in (("", "no samples"), ("[]", "no samples"), ('[{"a": 1}', "cut off")):
        (tmp_path / "bad.json").write_text(text)
        fastvlm(*arguments(tmp_path / "bad.json", out)).failed(1, "bad.json", words)
    fastvlm(*arguments(tmp_path / "none.json", out)).failed(1, "none.json")
    for options, words in ((["--tune", "head"], "none of"), (["--lr", "-1"], "negative"), (["--batch-size", "0"], "batch"),
                           (["--batch-norm", "x"], "--batch-norm"), (["--schedule", "x"], "--schedule"),
                           (["--epochs", "0"], "epochs"), (["--adam-beta2", "1"], "beta"), (["--tune", "llm",
                            "--freeze-backbone", "True"], "--tune"), (["--gradient-checkpointing", "x"], "true")):
        fastvlm(*arguments(data, out, *options)).failed(2, words)
    fastvlm("train", "--model", MODEL, "--data", data).failed(2, "--output")
    shutil.copytree(MODEL, own := tmp_path / "own")
    fastvlm(*arguments(data, own, "--max-steps", "1", model=own)).failed(2, "own is the model itself")
    assert sorted(path.name for path in own.iterdir()) == sorted(path.name for path in MODEL.iterdir())
    fastvlm(*arguments(data, out, "--tune", "llm", model=GOLDEN / "apple_int4")).failed(1, "quantised")


def test_a_loss_that_is_not_finite_names_the_batch(fastvlm, write, tmp_path):
    data = write(SAMPLES[:3])
    result = fastvlm(*arguments(data, tmp_path / "out", "--lr", "1e30", "--schedule", "constant", "--max-grad-norm", "0",
                                "--warmup-ratio", "0", "--max-steps", "50", "--no-shuffle"))
    result.failed(1, "not finite", "data.json, sample")


def test_published_names_work(fastvlm, write, tmp_path):
    result = fastvlm("train", "--model_name_or_path", MODEL, "--data_path", write(SAMPLES), "--image_folder", IMAGES,
                     "--output_dir", tmp_path / "out", "--version", "qwen_2", "--num_train_epochs", "1",
                     "--per_device_train_batch_size", "5", "--learning_rate", "1e-4", "--weight_decay", "0.",
                     "--warmup_ratio", "0.03", "--lr_scheduler_type", "cosine", "--save_steps", "100",
                     "--save_total_limit", "1", "--mm_projector_lr", "2e-4", "--unfreeze_mm_vision_tower", "True",
                     "--gradient_checkpointing", "True", "--model_max_length", "512", "--json", "--quiet")
    assert result.json["step"] == result.json["steps"] == 1


# The optimiser's state.

EIGHT = ["--optim", "adamw_8bit"]
AVERAGED = ["--ema-decay", "0.9"]


@pytest.mark.parametrize("options", [EIGHT, AVERAGED, EIGHT + AVERAGED], ids=["8bit", "ema", "both"])
def test_resume_with_other_states(options, whole, fastvlm, tmp_path):
    data, out = whole
    assert fastvlm(*arguments(data, tmp_path / "one", *RUN, *options)).code == 0
    assert weights(tmp_path / "one") != weights(out)
    for step in (2, 6):
        new = tmp_path / str(step)
        assert fastvlm(*arguments(data, new, *RUN, *options, "--resume-from", tmp_path / "one" / f"checkpoint-{step}")).code == 0
        assert weights(new) == weights(tmp_path / "one")
    fastvlm(*arguments(data, tmp_path / "x", *RUN, *options, "--resume-from", out / "checkpoint-2")).failed(
        1, "another optimiser")


def test_eight_bits_learn_alike(whole, fastvlm, tmp_path):
    data, _ = whole
    run = ["--tune", "projector,llm", "--lr", "2e-3", "--batch-size", "5", "--max-steps", "30", "--save-steps", "0", "--json"]
    plain = fastvlm(*arguments(data, tmp_path / "plain", *run)).json
    eight = fastvlm(*arguments(data, tmp_path / "eight", *run, *EIGHT)).json
    first = log(tmp_path / "plain")[0]["loss"]
    assert plain["loss"] < first - 1 and eight["loss"] == pytest.approx(plain["loss"], abs=0.05 * (first - plain["loss"]))
    # Norms, biases and what is smaller than 4096 keep 32 bits.
    assert eight["memory"]["states"] < 0.35 * plain["memory"]["states"]


def test_the_average_is_what_is_saved(fastvlm, write, tmp_path):
    out = tmp_path / "out"
    assert fastvlm(*arguments(write(SAMPLES), out, "--lr", "1e-2", "--max-steps", "4", "--save-steps", "1", *AVERAGED,
                              "--tune", "projector")).code == 0
    states = [read_all(out / f"checkpoint-{step}" / "optimizer.safetensors") for step in range(1, 5)]
    names = [name.split("/", 1)[1] for name in states[0] if name.startswith("average/")]
    saved = read_all(out / "model.safetensors")
    assert len(names) == 4
    for name in names:
        for before, after in zip(states, states[1:]):
            last = before[f"average/{name}"]
            expected = last + np.float32(1 - 0.9) * (after[f"value/{name}"] - last)
            assert np.abs(after[f"average/{name}"] - expected).max() < 1e-6
        average, value = states[-1][f"average/{name}"], states[-1][f"value/{name}"]
        assert np.linalg.norm(saved[name] - average) < 0.2 * np.linalg.norm(saved[name] - value)  # both rounded to bf16


# Packs, evaluation, stopping early.


def test_packs_are_their_samples(fastvlm, write, tmp_path):
    """A unit of all samples is the batch of all samples: attention and positions are each sample's own."""
    data = write(SAMPLES)
    run = ["--lr", "1e-3", "--max-steps", "3", "--save-steps", "0", "--tune", "vision,projector,llm"]
    assert fastvlm(*arguments(data, tmp_path / "batch", *run, "--batch-size", "5")).code == 0
    assert fastvlm(*arguments(data, tmp_path / "pack", *run, "--packing", "4096")).code == 0
    for one, two in zip(log(tmp_path / "batch"), log(tmp_path / "pack"), strict=True):
        assert one["tokens"] == two["tokens"] and one["loss"] == pytest.approx(two["loss"], abs=1e-5)


def test_packs_keep_to_their_length(labels, fastvlm, write, tmp_path):
    texts = [sample(str(i), None, "Which?", f"Number {i}. " * (1 + i % 5)) for i in range(40)]
    texts.append(sample("long", None, "Which?", "Long. " * 60))
    data = write(texts)
    lengths = [len(entry["input_ids"]) for entry in labels(data, 41)]
    longest = 2 * max(lengths[:40])
    packs = fastvlm(*arguments(data, tmp_path / "out", "--packing", longest, "--epochs", "1", "--lr", "0", "--tune",
                               "projector", "--save-steps", "0", "--json")).json
    assert sum(lengths[:40]) / longest <= packs["steps"] - 1 < len(lengths) - 5
    tokens = [entry["tokens"] for entry in log(tmp_path / "out")]
    assert sum(tokens) == sum(lengths) and sorted(tokens)[-2] <= longest < lengths[40] == max(tokens)
    fastvlm(*arguments(data, tmp_path / "x", "--packing", "100", "--group-by-length", "true")).failed(2, "packs")


def test_resume_with_packs_and_evaluation(fastvlm, write, tmp_path):
    data = write([*SAMPLES, *SAMPLES])
    run = [*RUN, "--packing", "200", "--eval-data", data, "--eval-steps", "2", "--early-stopping-patience", "9"]
    assert fastvlm(*arguments(data, tmp_path / "one", *run)).code == 0
    for step in (2, 6):
        new = tmp_path / str(step)
        assert fastvlm(*arguments(data, new, *run, "--resume-from", tmp_path / "one" / f"checkpoint-{step}")).code == 0
        assert weights(new) == weights(tmp_path / "one")
        assert ([entry for entry in evaluations(new)] == [entry for entry in evaluations(tmp_path / "one") if entry[0] > step])


def evaluations(folder):
    return [(entry["step"], entry["eval_loss"]) for entry in log(folder) if "eval_loss" in entry]


def test_evaluation_is_the_loss(fastvlm, write, tmp_path):
    """Of weights that do not change: the loss of a step over the same samples, averages' too."""
    data = write(SAMPLES)
    common = ["--lr", "0", "--max-steps", "1", "--tune", "projector,llm", "--save-steps", "0", "--json"]
    step = fastvlm(*arguments(data, tmp_path / "a", *common, "--batch-size", "5")).json
    for more in ([], AVERAGED):
        result = fastvlm(*arguments(data, tmp_path / "b", *common, "--batch-size", "2", "--eval-data", data, *more)).json
        assert result["eval_loss"] == pytest.approx(step["loss"], abs=1e-6)
    bad = write([*SAMPLES, sample("x", "missing.jpg", "<image>\nA?", "B.")], "bad.json")
    fastvlm(*arguments(data, tmp_path / "c", *common, "--eval-data", bad)).failed(1, "bad.json, sample 6", "missing.jpg")


def test_stopping_early(fastvlm, write, tmp_path):
    """With a rate of 0 no evaluation is better than the first; the count is in checkpoints."""
    data, out = write(SAMPLES), tmp_path / "out"
    run = ["--lr", "0", "--max-steps", "50", "--tune", "projector", "--eval-data", data, "--eval-steps", "2",
           "--early-stopping-patience", "3", "--save-steps", "2", "--json"]
    result = fastvlm(*arguments(data, out, *run)).json
    assert (result["step"], [step for step, _ in evaluations(out)]) == (8, [2, 4, 6, 8])
    assert (out / "model.safetensors").exists()
    again = fastvlm(*arguments(data, tmp_path / "again", *run, "--resume-from", out / "checkpoint-4")).json
    assert (again["step"], [step for step, _ in evaluations(tmp_path / "again")]) == (8, [6, 8])
    assert fastvlm(*arguments(data, out, *run, "--resume")).json["step"] == 8
    fastvlm(*arguments(data, out, "--early-stopping-patience", "3")).failed(2, "evaluate")


# Recipes, and the published scripts' flags.

RECIPES = sorted((GOLDEN.parents[1] / "recipes").glob("*.sh"))


@pytest.mark.parametrize("recipe", RECIPES, ids=[path.stem for path in RECIPES])
def test_recipes_start(recipe, write, tmp_path):
    """One step each; the learning rate and what is trained are in the files."""
    out = tmp_path / "out"
    program = " ".join(map(str, [*WRAPPER, BUILD / "fastvlm"]))
    run = subprocess.run([recipe, MODEL, write(SAMPLES[:3]), IMAGES, out, "--max-steps", "2", "--save-steps", "1"],
                         env={**os.environ, "FASTVLM": program, "LAUNCHER": "env", "RANKS": "64"}, capture_output=True,
                         timeout=120 * SLOWNESS)
    assert run.returncode == 0, run.stderr.decode()
    assert [entry["step"] for entry in log(out)] == [1, 2]
    assert (out / ("adapter_config.json" if "lora" in recipe.stem else "model.safetensors")).exists()


def test_every_recipe_is_there():
    assert {path.stem for path in RECIPES} == {"stage1", "stage1_5", "stage2", "stage3", "lora", "lora_small", "cluster"}


PUBLISHED = ["--vision_tower", "mobileclip_l_1024", "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2",
             "--mm_use_im_start_end", "False", "--mm_use_im_patch_token", "False", "--image_aspect_ratio", "pad",
             "--per_device_eval_batch_size", "4", "--tf32", "True", "--dataloader_num_workers", "4", "--lazy_preprocess",
             "True", "--logging_steps", "1", "--bits", "16", "--report_to", "none", "--optim", "adamw_torch"]


def test_flags_that_decide_nothing_are_named(fastvlm, write, tmp_path):
    run = arguments(write(SAMPLES[:3]), tmp_path / "out", "--max_steps", "1", "--evaluation_strategy", "no",
                    "--save_strategy", "no")
    result = fastvlm(*run, *PUBLISHED)
    assert result.code == 0 and "passed by: --vision-tower --mm-vision-select-layer" in result.err, result.err
    fastvlm(*run, "--mm_use_im_start_end", "True").failed(2, "--mm-use-im-start-end True")
    fastvlm(*run, "--bits", "4").failed(2, "quantise")
    fastvlm(*run, "--pretrain_mm_mlp_adapter", "mm_projector.bin").failed(2, "stage 1")
    fastvlm(*run, "--report_to", "wandb").failed(2, "tensorboard")


def test_published_parts(fastvlm, write, tmp_path):
    """What changes under each of the script's switches."""
    data, before = write(SAMPLES[:3]), {}
    for path in MODEL.glob("*.safetensors"):
        before.update(read_all(path))
    for flags, parts in ((["--tune_mm_mlp_adapter", "True"], {"projector"}),
                         (["--tune_mm_mlp_and_vision_tower", "True"], {"projector", "vision"}),
                         (["--freeze_mm_mlp_adapter", "True"], {"llm"}),
                         (["--freeze_backbone", "True", "--unfreeze_mm_vision_tower", "True"], {"projector", "vision"})):
        out = tmp_path / "out"
        assert fastvlm(*arguments(data, out, "--lr", "1e-2", "--max-steps", "2", "--batch-size", "3", *flags)).code == 0
        after = read_all(out / "model.safetensors")
        changed = {"projector" if "mm_projector" in name else "vision" if "vision_tower" in name else "llm"
                   for name in before if not np.array_equal(before[name], after[name])}
        assert changed == parts, flags


def test_strategies(fastvlm, write, tmp_path):
    data = write(SAMPLES)
    run = ["--batch-size", "2", "--epochs", "3", "--tune", "projector", "--eval-data", data]
    assert fastvlm(*arguments(data, tmp_path / "a", *run, "--save-strategy", "epoch", "--eval-strategy", "epoch")).code == 0
    assert sorted(path.name for path in (tmp_path / "a").glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (3, 6, 9)]
    assert [step for step, _ in evaluations(tmp_path / "a")] == [3, 6, 9]
    assert fastvlm(*arguments(data, tmp_path / "b", *run, "--save-strategy", "no", "--eval-strategy", "no")).code == 0
    assert list((tmp_path / "b").glob("checkpoint-*")) == [] and [step for step, _ in evaluations(tmp_path / "b")] == [9]
    fastvlm(*arguments(data, tmp_path / "c", *run, "--save-strategy", "x")).failed(2, "--save-strategy")


def test_a_configuration_of_deepspeed(fastvlm, write, tmp_path):
    data, config = write(SAMPLES[:1]), tmp_path / "zero.json"
    run = arguments(data, tmp_path / "out", "--max-steps", "1", "--tune", "projector", "--deepspeed", config)
    config.write_text('{"zero_optimization": {"stage": 3, "overlap_comm": true}}')
    assert fastvlm(*run).code == 0
    assert fastvlm(*run, "--plan", "--plan-ranks", "4", "--json").json["plan"][0]["zero"] == 3
    for text, words in (("{}", "no stage"), ("{", "line 1"), ('{"zero_optimization": {"stage": 4}}', "no stage")):
        config.write_text(text)
        fastvlm(*run).failed(2, "--deepspeed", words)


# Full disks.


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_full_disk_keeps_the_last_checkpoint(whole, part, fastvlm, tmp_path):
    """A limit on files stands for a full disk: the largest of the new checkpoint does not fit."""
    data, out = whole
    new = tmp_path / "out"
    new.mkdir()
    shutil.copytree(out / "checkpoint-4", new / "checkpoint-4")
    limit = int(part * (out / "checkpoint-4" / "optimizer.safetensors").stat().st_size)
    run = arguments(data, new, *RUN, "--resume", "--report-to", "none")
    result = fastvlm(*run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    result.failed(1, "checkpoint-6")
    assert sorted(path.name for path in new.glob("checkpoint-*")) == ["checkpoint-4"]
    assert bytes_of(new / "checkpoint-4") == bytes_of(out / "checkpoint-4")
    assert fastvlm(*run).code == 0
    assert weights(new) == weights(out)


def test_a_full_file_system(whole, fastvlm, tmp_path):
    """One that has room for one checkpoint and a half; older ones go first where only the newest is kept."""
    data, out = whole
    disk = tmp_path / "disk"
    disk.mkdir()
    size = int(1.5 * bytes_of(out / "checkpoint-4"))
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)],
                                           stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root can make a small disk")
    try:
        run = arguments(data, disk / "out", *RUN)
        fastvlm(*run).failed(1, "checkpoint-4")
        assert [path.name for path in (disk / "out").glob("checkpoint-*")] == ["checkpoint-2"]
        again = tmp_path / "again"
        assert fastvlm(*arguments(data, again, *RUN, "--resume-from", disk / "out" / "checkpoint-2")).code == 0
        assert weights(again) == weights(out)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
