"""`fastvlm export hf` in transformers: FastVlmForConditionalGeneration and its processor load the folder and answer."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, FastVlmForConditionalGeneration

from conftest import full_expected
from golden_set import SHARED, compare, predict, trace

LOGITS_BAR = 1e-3


def load(folder, dtype=torch.float32):
    model, info = FastVlmForConditionalGeneration.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[kind], (kind, info[kind])
    return model.eval(), AutoProcessor.from_pretrained(folder)


def inputs(processor, image, question):
    message = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": message}], add_generation_prompt=True)
    return prompt, processor(images=[image], text=[prompt], return_tensors="pt")


def pixels_of(traced):
    return torch.from_numpy(traced["pixels"].astype(np.float32) / 255).permute(2, 0, 1)[None]


def logits(model, encoded, pixels):
    encoded = {**encoded, "pixel_values": pixels}
    with torch.no_grad():
        return model(**encoded).logits[0].numpy(), encoded


def generate(model, encoded, count):
    """Greedy tokens; the checkpoint's own repetition penalty is no part of that."""
    with torch.no_grad():
        out = model.generate(**encoded, do_sample=False, repetition_penalty=1.0, max_new_tokens=count)
    return out[0, encoded["input_ids"].shape[1]:].tolist()


def test_published_numbers(golden, export):
    model, processor = load(export("hf", golden.folder / "llava"))
    case = next(case for case in golden.cases if len(case["images"]) == 1 and case["template"] == "qwen_2")
    index = golden.cases.index(case)
    image = Image.open(golden.images / case["images"][0]).convert("RGB")
    prompt, encoded = inputs(processor, image, case["question"])
    assert prompt == case["prompt"]
    pixels = torch.from_numpy(golden.pixels()[f"pixels.pad.{case['images'][0]}"].astype(np.float32) / 255)
    pixels = pixels.permute(2, 0, 1)[None]
    # torchvision resizes in its own way: a level of 255 here and there.
    assert np.abs((encoded["pixel_values"] - pixels).numpy()).max() <= 2 / 255
    got, encoded = logits(model, encoded, pixels)
    expected = golden.tensors[f"case{index}.logits"]
    compare("fast_vlm logits", got[-expected.shape[0]:], expected, max_abs=LOGITS_BAR)
    tokens = generate(model, encoded, len(case["greedy"]))
    assert [token for token in tokens if token not in model.generation_config.eos_token_id] == case["greedy"]


@pytest.mark.parametrize("layout", ["llava", "llava_bin", "hf", "apple_fp16", "apple_int8", "apple_int4"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_every_layout_loads_and_agrees_with_us(golden, export, tmp_path, layout, dtype):
    folder = export("hf", golden.folder / layout, "--type", dtype)
    model, processor = load(folder)
    image = golden.staged()
    traced = trace(folder, [golden.images / image], "What is this?", tmp_path / "trace")
    _, encoded = inputs(processor, Image.open(golden.images / image).convert("RGB"), "What is this?")
    got, _ = logits(model, encoded, pixels_of(traced))
    compare(f"{layout} {dtype}", traced["logits"], got, max_abs=LOGITS_BAR)
    if dtype == "f32":  # the export says what the source said; bf16 is rounded on the way
        ours = trace(golden.folder / layout, [golden.images / image], "What is this?", tmp_path / "source")
        compare(f"{layout}'s own", ours["logits"], got, max_abs=LOGITS_BAR)


def test_full_size(full_model, export, tmp_path):
    expected, values = full_expected()
    folder = export("hf", full_model)
    model, processor = load(folder)
    path = SHARED / "fixtures" / "images" / expected["image"]
    traced = trace(folder, [path], expected["question"], tmp_path / "trace")
    _, encoded = inputs(processor, Image.open(path).convert("RGB"), expected["question"])
    got, encoded = logits(model, encoded, pixels_of(traced))
    compare("full-size logits", got[-1], values["last_logits"], max_abs=LOGITS_BAR)
    compare("full-size logits, ours", traced["logits"][-1], got[-1], max_abs=LOGITS_BAR)
    answer = predict(folder, [path], expected["question"], 8)
    assert generate(model, encoded, 8) == answer["tokens"]
