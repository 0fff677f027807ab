"""`fastvlm export mlx` in MLX: mlx-vlm loads its own layout and answers as predict does; Apple's layout is loaded into
mlx-vlm's language model, which gets the features of our tower. Quantised groups are mx.quantize's to the bit.

MLX multiplies quantised fp16 weights on a processor one number at a time, in fp16: 35 times slower than in float32. So at
full size a loaded model is widened, scales and offsets with it: the same weights, in arithmetic as fine as predict's."""

import json
import os

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm import apply_chat_template, stream_generate, utils
from mlx_vlm.models import fastvlm
from mlx_vlm.models.cache import make_prompt_cache
from PIL import Image
from transformers import AutoTokenizer

from conftest import full_expected
from golden_set import SHARED, compare, predict, read_safetensors, trace

BITS = [0, 8, 4]
TOKENS = 24
QUESTIONS = ["What is this?", "Describe the image.", "How many are there?", "Which colour is it?", "Why?", "Where?"]
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


def agree(what, ours, theirs, answer, tokens, leads):
    """The same tokens. Only one whose lead is within what both sides' logits of the prompt are apart may end that."""
    apart = float(np.abs(ours - theirs).max())
    tokens = tokens[: len(answer)]
    same = next((i for i, (a, b) in enumerate(zip(answer, tokens)) if a != b), len(tokens))
    print(f"{what}: {same} of {len(tokens)} tokens are the same, the smallest lead is {min(leads[:len(tokens)]):.3f}, "
          f"logits are {apart:.2g} apart")
    assert same == len(tokens) or leads[same] < 2 * apart, (same, leads[same], answer, tokens)
    assert same >= min(4, len(tokens))


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


def see(model, pixels, seen):
    """What mlx-vlm's tower makes of the pixels, in float32; a tower and pixels that are in `seen` are not run again."""
    weights = dict(tree_flatten(model.vision_tower.parameters()))
    if not seen:
        _, features, _ = model.vision_tower(pixels.transpose(0, 2, 3, 1))
        seen.update(weights=weights, pixels=pixels, features=features.reshape(1, -1, features.shape[-1]))
        mx.eval(seen)
    assert mx.array_equal(pixels, seen["pixels"]) and weights.keys() == seen["weights"].keys()
    assert all(mx.array_equal(weight, seen["weights"][name]) for name, weight in weights.items())
    return seen["features"]


def run_mlx_vlm(folder, image, question, tmp_path, count, widen, seen=None):
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
    pixels = mx.array(pixels)
    known = {} if seen is None else {"cached_image_features": model.mm_projector(see(model, pixels, seen))}
    embeddings = model.get_input_embeddings(mx.array(np.asarray(encoded["input_ids"])), pixels, **known)
    logits, tokens, leads = prefill_and_step(model.language_model, embeddings.inputs_embeds, count)
    assert logits.shape == traced["logits"].shape
    answer = predict(folder, [image], question, count)
    agree(f"mlx-vlm's layout, {folder.parent.name}", traced["logits"], logits, answer["tokens"], tokens, leads)
    return traced["logits"], logits


@pytest.mark.parametrize("bits, kind, widen", [(0, "f32", True), (0, "f16", True), (8, "f16", False), (4, "f16", False)])
def test_mlx_vlm_answers_as_predict(golden, export, monkeypatch, tmp_path, bits, kind, widen):
    folder = export("mlx", golden.folder / "llava", "--layout", "mlx-vlm", "--type", kind, *options(bits))
    set_tower(monkeypatch, folder)
    image = golden.images / golden.staged()
    ours, theirs = run_mlx_vlm(folder, image, "What is this?", tmp_path, TOKENS, widen)
    compare(f"logits, {bits} bits, {kind}", ours, theirs, relative_l2=1e-5 if widen else 2e-2)


@pytest.mark.parametrize("bits", BITS)
def test_mlx_vlm_generates(golden, export, monkeypatch, bits):
    """By itself, from the picture's file and the question to the last token. It fails at numbers that the tokenizer has
    no token for, which made-up weights may choose: a question without such is asked."""
    folder = export("mlx", golden.folder / "llava", "--layout", "mlx-vlm", *options(bits))
    set_tower(monkeypatch, folder)
    image = golden.images / golden.staged()
    model, processor = utils.load(str(folder))
    model.set_dtype(mx.float32)
    answers = ((question, predict(folder, [image], question, TOKENS)) for question in QUESTIONS)
    question, answer = next(pair for pair in answers if max(pair[1]["tokens"]) < len(processor.tokenizer))
    prompt = apply_chat_template(processor, model.config, question, num_images=1)
    parts = stream_generate(model, processor, prompt, image=[str(image)], max_tokens=TOKENS, temperature=0.0)
    assert [part.token for _, part in zip(answer["tokens"], parts)] == answer["tokens"]
    print(f"{bits} bits: mlx-vlm says {answer['text']!r} too")


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


def run_apple(folder, image, question, tmp_path, count, widen):
    traced = trace(folder, [image], question, tmp_path / "trace")
    model, projector, config = load_apple(folder)
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
    agree(f"Apple's layout, {folder.parent.name}", traced["logits"], logits, answer["tokens"], tokens, leads)
    return traced["logits"], logits


@pytest.mark.parametrize("bits", BITS)
def test_apple_layout_answers_as_predict(golden, export, tmp_path, bits):
    folder = export("mlx", golden.folder / "llava", *options(bits))
    image = golden.images / golden.staged()
    ours, theirs = run_apple(folder, image, "What is this?", tmp_path, TOKENS, widen=not bits)
    compare(f"logits, {bits} bits", ours, theirs, relative_l2=2e-2 if bits else 1e-5)


@pytest.fixture(scope="module")
def seen():
    """The full-size tower's features: minutes in MLX. The exports of all widths have the same tower, and see() asks."""
    return {}


@pytest.mark.parametrize("layout", ["mlx-vlm", "apple"])
@pytest.mark.parametrize("bits", BITS)
def test_full_size(full_model, export, seen, tmp_path, bits, layout):
    """Predict rounds a dequantised weight to fp16, as MLX does on a GPU; here MLX keeps it in float32."""
    if os.environ.get("FVLM_MINUTES"):
        pytest.skip("FVLM_MINUTES bounds this run, and MLX takes most of an hour for the six full-size answers on a processor")
    expected, _ = full_expected()
    image = SHARED / "fixtures" / "images" / expected["image"]
    folder = export("mlx", full_model, "--layout", layout, *options(bits))
    question, count = expected["question"], len(expected["greedy"])
    ours, theirs = (run_apple(folder, image, question, tmp_path, count, widen=True) if layout == "apple" else
                    run_mlx_vlm(folder, image, question, tmp_path, count, True, seen))
    compare(f"full size, {layout}, {bits} bits", ours, theirs, relative_l2=5e-3 if bits else 1e-4)


@pytest.mark.parametrize("layout, bits", [("mlx-vlm", 4), ("mlx-vlm", 8), ("apple", 4), ("apple", 8)])
def test_full_size_packing(full_model, export, layout, bits):
    folder = export("mlx", full_model, "--layout", layout, *options(bits))
    made, source = mx.load(str(folder / "model.safetensors")), mx.load(str(full_model / "model.safetensors"))
    names = [name[: -len(".scales")] for name in made if name.endswith(".scales")]
    for name in names:
        theirs = name.removeprefix("language_model.").replace("multi_modal_projector.linear_", "mm_projector.")
        weight = source[theirs.replace("mm_projector", "model.mm_projector") + ".weight"]
        for part, expected in zip(("weight", "scales", "biases"), mx.quantize(weight.astype(mx.float16), 64, bits)):
            assert mx.array_equal(made[f"{name}.{part}"], expected), f"{name}.{part}"
    print(f"{len(names)} matrices equal mx.quantize")
    assert len(names) == 24 * 7 + 3
