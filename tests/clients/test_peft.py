"""An adapter of `fastvlm train` in PEFT: it loads onto transformers' model and gives our logits, and `fastvlm merge`
writes the model that PEFT merges."""

import json

import numpy as np
import peft
import pytest
from PIL import Image
from golden_set import compare, read_safetensors, run, trace
from test_hf import inputs, load, logits, pixels_of

QUESTION = "What is this?"
BAR = 1e-3  # of logits, as test_hf's


@pytest.fixture(scope="module")
def adapter(golden, export, tmp_path_factory):
    """The exported model in float32, an adapter trained on it, and both merged."""
    folder, base = tmp_path_factory.mktemp("adapter"), export("hf", golden.folder / "llava", "--type", "f32")
    samples = [
        {"image": golden.staged(), "conversations": [
            {"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": "A drawing of lines."}]}
    ]
    (folder / "data.json").write_text(json.dumps(samples))
    run(
        "train", "--model", base, "--data", folder / "data.json", "--image-folder", golden.images, "--tune", "llm",
        "--lora", "true", "--lora-r", 4, "--lora-alpha", 8, "--lr", 1e-2, "--max-steps", 10, "--save-steps", 0,
        "--quiet", "--output", folder / "adapter",
    )
    run("merge", "--model", base, "--adapter", folder / "adapter", "--output", folder / "merged")
    return base, folder / "adapter", folder / "merged"


def test_peft_loads_it_and_agrees(golden, adapter, tmp_path):
    base, folder, merged = adapter
    model, processor = load(base)
    image = golden.images / golden.staged()
    traced = trace(merged, [image], QUESTION, tmp_path / "trace")
    _, encoded = inputs(processor, Image.open(image).convert("RGB"), QUESTION)
    before, _ = logits(model, encoded, pixels_of(traced))
    adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    names = set(read_safetensors(folder / "adapter_model.safetensors"))
    assert names == set(peft.get_peft_model_state_dict(adapted))
    got, _ = logits(adapted, encoded, pixels_of(traced))
    assert np.abs(got - before).max() > 100 * BAR  # the adapter does something
    compare("PEFT's logits, ours merged", traced["logits"], got, max_abs=BAR)
    whole = adapted.merge_and_unload()
    compare("merged by PEFT", got, logits(whole, encoded, pixels_of(traced))[0], max_abs=BAR)
