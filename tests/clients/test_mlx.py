"""`fastvlm export mlx` in MLX: mlx-vlm loads its own layout and answers as predict does; Apple's layout is loaded into
mlx-vlm's language model, which gets the features of our tower. Quantised groups are mx.quantize's to the bit."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_vlm import utils
from mlx_vlm.models import fastvlm
from mlx_vlm.models.cache import make_prompt_cache
from PIL import Image
from transformers import AutoTokenizer

from conftest import full_expected
from golden_set import SHARED, compare, predict, read_safetensors, trace

BITS = [0, 8, 4]
TOKENS = 24
PROMPT = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\n{}<|im_end|>\n"
          "<|im_start|>assistant\n")


@pytest.fixture(autouse=True)
def on_the_processor():
    mx.set_default_device(mx.cpu)


def options(bits):
    return ("--bits", bits) if bits else ()


def set_tower(monkeypatch, folder):
    """mlx-vlm's tower has the published widths and depths as constants of its class."""
    arch = json.loads((folder / "config.json").read_text()).get("mm_vision_arch")
    if arch:
        ratio = arch["mlp_ratio"]
        monkeypatch.setattr(fastvlm.VisionConfig, "layers", arch["layers"])
        monkeypatch.setattr(fastvlm.VisionConfig, "embed_dims", arch["embed_dims"])
        monkeypatch.setattr(fastvlm.VisionConfig, "mlp_ratios", ratio if isinstance(ratio, list) else 5 * [ratio])


def prefill_and_step(model, embeddings, count):
    """Logits of the prompt, then of each greedy token: [positions, vocabulary], tokens, how far each token led."""
    cache = make_prompt_cache(model)
    logits = model(None, inputs_embeds=embeddings, cache=cache).logits
    prompt, tokens, leads = np.array(logits[0].astype(mx.float32)), [], []
    while True:
        last = np.array(logits[0, -1].astype(mx.float32))
        order = np.argsort(last)
        tokens.append(int(order[-1]))
        leads.append(float(last[order[-1]] - last[order[-2]]))
        if len(tokens) == count:
            return prompt, tokens, leads
        logits = model(mx.array([[tokens[-1]]]), cache=cache).logits


def agree(what, ours, tokens, leads, unsure):
    """The same tokens, up to the first that led by less than what the number type loses."""
    sure = next((i for i, lead in enumerate(leads) if lead < unsure), len(leads))
    same = next((i for i, (a, b) in enumerate(zip(ours, tokens)) if a != b), len(tokens))
    print(f"{what}: {same} tokens are the same, {sure} of {len(tokens)} are held to MLX's answer, smallest lead {min(leads):.3f}")
    assert sure >= min(4, len(tokens)), leads
    assert ours[:sure] == tokens[:sure]


def test_packing_is_mlx_own(golden, export):
    source = read_safetensors(golden.folder / "apple_fp16" / "model.safetensors")
    for bits in (4, 8):
        for group in (32, 64, 128):
            made = read_safetensors(export("mlx", golden.folder / "apple_fp16", *options(bits), "--group-size", group,
                                           "--layout", "mlx-vlm") / "model.safetensors")
            count = 0
            for name in [name[: -len(".scales")] for name in made if name.endswith(".scales")]:
                theirs = name.replace("mm_projector.", "multi_modal_projector.linear_")
                parts = mx.quantize(mx.array(source[f"{theirs}.weight"]), group, bits)
                for part, expected in zip(("weight", "scales", "biases"), parts):
                    assert np.array_equal(made[f"{name}.{part}"].view(np.uint8), np.array(expected).view(np.uint8)), name
                count += 1
            print(f"{bits} bits, groups of {group}: {count} matrices equal mx.quantize")
            assert count >= 3


def run_mlx_vlm(folder, image, question, tmp_path, count, unsure, widen=False):
    """mlx-vlm's model on our pixels against predict; its own processor on the picture against our pixels."""
    traced = trace(folder, [image], question, tmp_path / "trace")
    model, processor = utils.load(str(folder))
    if widen:  # the same weights, but arithmetic in float32, which is ours
        model.set_dtype(mx.float32)
    encoded = processor(images=[Image.open(image).convert("RGB")], text=[PROMPT.format(question)])
    pixels = traced["pixels"].astype(np.float32).transpose(2, 0, 1)[None] / 255
    theirs = np.asarray(encoded["pixel_values"])
    print(f"their pixels differ from ours by {np.abs(theirs - pixels).max() * 255:.1f} of 255 at most")
    # Its processor cuts values off instead of rounding them.
    assert np.abs(theirs - pixels).mean() <= 1 / 255
    embeddings = model.get_input_embeddings(mx.array(np.asarray(encoded["input_ids"])), mx.array(pixels))
    logits, tokens, leads = prefill_and_step(model.language_model, embeddings.inputs_embeds, count)
    assert logits.shape == traced["logits"].shape
    answer = predict(folder, [image], question, count)
    agree(folder.name, answer["tokens"], tokens[: len(answer["tokens"])], leads[: len(answer["tokens"])], unsure)
    return traced["logits"], logits


# MLX computes in fp16 where the weights are: what it says holds where a token leads by more than that loses.
@pytest.mark.parametrize("bits, kind, widen, unsure", [(0, "f32", False, 1e-3), (0, "f16", True, 1e-3),
                                                       (8, "f16", False, 0.1), (4, "f16", False, 0.1)])
def test_mlx_vlm_answers_as_predict(golden, export, monkeypatch, tmp_path, bits, kind, widen, unsure):
    folder = export("mlx", golden.folder / "llava", "--layout", "mlx-vlm", "--type", kind, *options(bits))
    set_tower(monkeypatch, folder)
    image = golden.images / golden.staged()
    ours, theirs = run_mlx_vlm(folder, image, "What is this?", tmp_path, TOKENS, unsure, widen)
    compare(f"logits, {bits} bits, {kind}", ours, theirs, relative_l2=1e-5 if unsure < 0.1 else 2e-2)


def load_apple(folder):
    """Apple's layout as mlx-vlm's language model, and the projector."""
    config = json.loads((folder / "config.json").read_text())
    weights = mx.load(str(folder / "model.safetensors"))
    text = fastvlm.TextConfig.from_dict(config)
    model = fastvlm.LanguageModel(text)
    projector = nn.Sequential(nn.Linear(config["mm_hidden_size"], text.hidden_size), nn.GELU(),
                              nn.Linear(text.hidden_size, text.hidden_size))
    for module, prefix in ((model, "language_model."), (projector, "multi_modal_projector.linear_")):
        mine = {name[len(prefix):]: value for name, value in weights.items() if name.startswith(prefix)}
        if module is projector:
            mine = {f"layers.{name}": value for name, value in mine.items()}
        if "quantization" in config:
            nn.quantize(module, config["quantization"]["group_size"], config["quantization"]["bits"],
                        class_predicate=lambda path, _: f"{path}.scales" in mine)
        module.load_weights(list(mine.items()), strict=True)
    return model, projector, config


def run_apple(folder, image, question, tmp_path, count):
    traced = trace(folder, [image], question, tmp_path / "trace")
    model, projector, config = load_apple(folder)
    widen = "quantization" not in config
    if widen:
        model.set_dtype(mx.float32)
        projector.set_dtype(mx.float32)
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT.format(question))["input_ids"]
    assert ids.count(config["image_token_index"]) == 1  # `<image>` is one token of the exported tokenizer
    place = ids.index(config["image_token_index"])
    features = mx.array(traced["features"][0]).astype(mx.float32 if widen else mx.float16)
    embed = model.model.embed_tokens
    parts = [embed(mx.array(ids[:place])), projector(features), embed(mx.array(ids[place + 1:]))]
    logits, tokens, leads = prefill_and_step(model, mx.concatenate(parts)[None], count)
    assert logits.shape == traced["logits"].shape
    answer = predict(folder, [image], question, count)
    agree(folder.name, answer["tokens"], tokens[: len(answer["tokens"])], leads[: len(answer["tokens"])], 1e-3 if widen else 0.1)
    compare("Apple's layout", traced["logits"], logits, relative_l2=1e-5 if widen else 2e-2)


@pytest.mark.parametrize("bits", BITS)
def test_apple_layout_answers_as_predict(golden, export, tmp_path, bits):
    folder = export("mlx", golden.folder / "llava", *options(bits))
    run_apple(folder, golden.images / golden.staged(), "What is this?", tmp_path, TOKENS)


@pytest.mark.parametrize("bits", BITS)
def test_full_size(full_model, export, tmp_path, bits):
    """Made-up weights have small leads, and 16 layers of fp16 lose more: the arithmetic is float32 where it can be."""
    expected, _ = full_expected()
    image = SHARED / "fixtures" / "images" / expected["image"]
    folder = export("mlx", full_model, "--layout", "mlx-vlm", *options(bits))
    ours, theirs = run_mlx_vlm(folder, image, expected["question"], tmp_path, 8, 0.05 if bits else 0.02, widen=not bits)
    compare(f"full size, {bits} bits", ours[-1], theirs[-1], relative_l2=2e-2)


def test_full_size_apple_layout(full_model, export, tmp_path):
    expected, _ = full_expected()
    image = SHARED / "fixtures" / "images" / expected["image"]
    run_apple(export("mlx", full_model), image, expected["question"], tmp_path, 8)


@pytest.mark.parametrize("layout, bits", [("mlx-vlm", 4), ("mlx-vlm", 8), ("apple", 4)])
def test_full_size_packing(full_model, export, layout, bits):
    folder = export("mlx", full_model, *(("--layout", layout) if layout == "mlx-vlm" else ()), *options(bits))
    made, source = mx.load(str(folder / "model.safetensors")), mx.load(str(full_model / "model.safetensors"))
    names = [name[: -len(".scales")] for name in made if name.endswith(".scales")]
    for name in names:
        theirs = name.removeprefix("language_model.").replace("multi_modal_projector.linear_", "mm_projector.")
        weight = source[theirs.replace("mm_projector", "model.mm_projector") + ".weight"]
        for part, expected in zip(("weight", "scales", "biases"), mx.quantize(weight.astype(mx.float16), 64, bits)):
            assert mx.array_equal(made[f"{name}.{part}"], expected), f"{name}.{part}"
    print(f"{len(names)} matrices equal mx.quantize")
    assert len(names) == 24 * 7 + 3
