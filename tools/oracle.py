#!/usr/bin/env python3
"""Makes tests/golden: one small made-up model in every layout, and what transformers' fast_vlm answers with it.

    python3 -m venv build/oracle && build/oracle/bin/pip install -r tools/requirements-oracle.txt
    build/oracle/bin/python tools/oracle.py [OUT]            (default: tests/golden; replaces the data in it)

Data flow: pictures drawn here -> Pillow preprocessing -> timm's fastvit_mci3 (checked against oracle_tower) ->
projector -> LLaVA's merge into the prompt's embeddings -> Qwen2 of transformers -> logits, greedy tokens, beams,
distributions. Everything is float32 and a fixed function of the seeds below. The files have the names and keys that
tests/golden/test_golden.py reads; tests/golden/README.md lists them.
"""

import argparse
import lzma
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import FastVlmConfig, FastVlmForConditionalGeneration
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import oracle_layouts as layouts
import oracle_pictures as pictures
from oracle_mil import Package
from oracle_tower import PREFIX, load_tower, made_up, tower_weights

SEED = 1
TOWER_SEED = 2  # of a tower that keeps float32 rounding below 1e-6 and tells the pictures apart
SIDE = 192
ARCH = {
    "layers": [1, 1, 2, 1, 1],
    "embed_dims": [8, 16, 16, 32, 64],
    "mlp_ratio": 2,
    "token_mixers": ["repmixer", "repmixer", "repmixer", "attention", "attention"],
}
LLM = {
    "vocab_size": 608,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
TOKENS = 580  # of the tokenizer, before its special tokens; fewer than the embedding's rows, as in the published 7B
SPECIAL = {"<|endoftext|>": TOKENS, "<|im_start|>": TOKENS + 1, "<|im_end|>": TOKENS + 2}
PINPOINTS = [[192, 384], [384, 192], [384, 384], [192, 576], [576, 192]]
END_BOOST = 2  # on the embedding of <|im_end|>, so that some answers end before their limit
NEW_TOKENS = 24
BEAM_TOKENS = 12
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAINING_TEXT = """\
You are a helpful assistant. Describe the image. What is the colour of the largest shape in this picture?
system user assistant The picture shows a circle, a square and a triangle on a bright ground; they don't overlap.
How many shapes are there? There are three of them. Which of these two pictures is darker, the first or the second?
I'd say it's the second one: we've seen that they're lit from the left, and I'm sure you'll agree. 1, 2, 3, 4, 5, 6.
Read the text on the label aloud, please! "Open here" - that's all it says. Is the shape on top? Yes, it is. No, it isn't.
Vier Töne, fünf Bäume und über allem ein größeres Dach. Où est la forêt ? Là-bas, près du café. ¿Qué ves? Un niño.
Что на картинке? Три круга и квадрат. 图片里有什么？一个圆和两个方块。絵の中に何がありますか。そこに丸が三つあります。
for (int i = 0; i < count; i++) { total += values[i]; }    // a loop\n\tif (total > 100) return -1;
The gradient runs from blue to orange, the ellipse is green and the rectangle behind it is almost white. 🙂 🎉
"""
SAMPLING = [
    {"temperature": 0.2, "top_p": None, "top_k": None, "repetition_penalty": None, "min_p": None},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 30, "repetition_penalty": 1.2, "min_p": None},
    {"temperature": 1.0, "top_p": 0.6, "top_k": None, "repetition_penalty": None, "min_p": None},
    {"temperature": 1.3, "top_p": None, "top_k": 64, "repetition_penalty": None, "min_p": 0.1},
    {"temperature": 2.0, "top_p": 0.95, "top_k": None, "repetition_penalty": 0.9, "min_p": 0.02},
]
CROPPED = ["shapes.png", "photo.jpg", "rotated.jpg"]  # pictures whose pixels are kept in the other modes too
TILED = ["shapes.png", "column.tiff"]
CASES = [
    ("Describe the image.", ["shapes.png"]),
    ("Which of these two pictures is darker?", ["photo.jpg", "palette.png"]),
    (
        "<image>\nHow many shapes are there? The second one: <image> is it larger? 图片 🙂",
        ["animated.gif", "column.tiff"],
    ),
    ("What colour is it?", ["rotated.jpg"]),
]
VARIANTS = [  # settings of config.json, on llava unless said otherwise; the first case's question
    {"name": "anyres_flat", "config": {"image_aspect_ratio": "anyres"}, "images": ["shapes.png"]},
    {
        "name": "anyres_spatial",
        "config": {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial"},
        "images": ["photo.jpg"],
    },
    {
        "name": "anyres_unpad",
        "config": {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"},
        "images": ["photo.jpg"],
    },
    {
        "name": "anyres_unpad_tall",
        "config": {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"},
        "images": ["column.tiff", "shapes.png"],
    },
    {"name": "crop", "config": {"image_aspect_ratio": "square"}, "images": ["photo.jpg"]},
    {"name": "resolution", "config": {}, "images": ["shapes.png"], "resolution": 256},
    {"name": "own_head", "layout": "llava_bin", "config": {}, "images": ["shapes.png"]},
]


def make_tokenizer():
    """Byte-level BPE with Qwen2's normalisation and split, trained on the text above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT.splitlines(keepends=True), trainer)
    assert tokenizer.get_vocab_size() == TOKENS, tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    assert all(tokenizer.token_to_id(text) == number for text, number in SPECIAL.items())
    return tokenizer


def language_weights():
    """LLaVA name -> float32 array: language model, projector, and the newline of the spatial_unpad merge."""
    hidden, inner, vocabulary = LLM["hidden_size"], LLM["intermediate_size"], LLM["vocab_size"]
    narrow = hidden // LLM["num_attention_heads"] * LLM["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(LLM["num_hidden_layers"]):
        base = f"model.layers.{layer}."
        for part, width in (("q", hidden), ("k", narrow), ("v", narrow)):
            shapes[f"{base}self_attn.{part}_proj.weight"] = (width, hidden)
            shapes[f"{base}self_attn.{part}_proj.bias"] = (width,)
        shapes[base + "self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[base + "mlp.gate_proj.weight"] = shapes[base + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[base + "mlp.down_proj.weight"] = (hidden, inner)
        shapes[base + "input_layernorm.weight"] = shapes[base + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["model.mm_projector.0.weight"] = (hidden, 2 * ARCH["embed_dims"][-1])
    shapes["model.mm_projector.2.weight"] = (hidden, hidden)
    shapes["model.mm_projector.0.bias"] = shapes["model.mm_projector.2.bias"] = shapes["model.image_newline"] = (
        hidden,
    )
    weights = {name: made_up(name, shape, SEED) for name, shape in shapes.items()}
    weights["model.embed_tokens.weight"][SPECIAL["<|im_end|>"]] *= END_BOOST
    return weights


def make_fast_vlm(model, tied=True):
    """transformers' model with the weights of `model` (LLaVA names)."""
    text = {**LLM, "model_type": "qwen2", "tie_word_embeddings": tied}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": text.pop("rope_theta")}
    args = {"layers": ARCH["layers"], "embed_dims": ARCH["embed_dims"], "inference_mode": True}
    args["mlp_ratios"] = [ARCH["mlp_ratio"]] * len(ARCH["layers"])
    vision = {"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg"}
    config = FastVlmConfig(
        vision_config={**vision, "hidden_size": 2 * ARCH["embed_dims"][-1], "model_args": args},
        text_config=text,
        image_token_index=LLM["vocab_size"] - 1,
        image_seq_length=(SIDE // 64) ** 2,
        tie_word_embeddings=tied,
    )
    fast_vlm = FastVlmForConditionalGeneration(config).eval()
    state = {name: torch.from_numpy(np.array(value)) for name, value in layouts.hf_state(model, ARCH).items()}
    missing, unexpected = fast_vlm.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("num_batches_tracked" in name or (tied and name == "lm_head.weight") for name in missing), missing
    fast_vlm.tie_weights()
    return fast_vlm


def template(question):
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    return f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def to_tower(pixels):
    """u8 [tiles, S, S, 3] or [S, S, 3] -> float [tiles, 3, S, S] in 0..1."""
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255


def relative(got, expected):
    return float((got - expected).norm() / expected.norm())


def unpad(grid, width, height):
    """Take out of grid [C, rows, columns] what lies over the black bars of a picture of width x height."""
    rows, columns = grid.shape[1:]
    if width / height > columns / rows:
        bar = (rows - int(height * (columns / width))) // 2
        return grid[:, bar : rows - bar, :]
    bar = (columns - int(width * (rows / height))) // 2
    return grid[:, :, bar : columns - bar]


def merge_tiles(projected, kind, size, newline):
    """LLaVA's merge of one picture's tiles [tiles, T, hidden] -> [image tokens, hidden]; the first is the whole."""
    if kind == "flat":
        return projected.flatten(0, 1)
    side = int(round(projected.shape[1] ** 0.5))
    columns, rows = (extent // SIDE for extent in pictures.best_resolution(size, PINPOINTS))
    grid = projected[1:].reshape(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3)
    grid = grid.flatten(1, 2).flatten(2, 3)  # [hidden, rows of tokens, columns of tokens]
    if kind == "spatial_unpad":
        grid = unpad(grid, *size)
        grid = torch.cat((grid, newline[:, None, None].expand(-1, grid.shape[1], 1)), dim=2)
        tokens = grid.flatten(1, 2).T
    else:  # "spatial" keeps the tokens of a tile row by tile row, each row of tokens across all tiles
        tokens = grid.flatten(1).T
    return torch.cat((projected[0], tokens))


class Golden:
    """The model with its tokenizer, and the expected values as they come."""

    def __init__(self, out):
        self.out = out
        self.tokenizer = make_tokenizer()
        self.tower_arrays = tower_weights(ARCH, TOWER_SEED)
        self.tower = load_tower(ARCH, self.tower_arrays)
        self.model = {**language_weights(), **{PREFIX + name: value for name, value in self.tower_arrays.items()}}
        self.fast_vlm = make_fast_vlm(self.model)
        self.newline = torch.from_numpy(self.model["model.image_newline"])
        self.tensors = {}

    def features(self, pixels):
        """[tiles, T, C] by timm's tower, after a check that the published form of it agrees."""
        with torch.no_grad():
            tiles = to_tower(pixels)
            reference = self.fast_vlm.model.vision_tower(tiles).last_hidden_state.flatten(2).transpose(1, 2)
            assert relative(self.tower(tiles), reference) < 2e-6
        return reference

    def project(self, features, fast_vlm=None):
        with torch.no_grad():
            return (fast_vlm or self.fast_vlm).model.multi_modal_projector(features)

    def splice(self, prompt, images, fast_vlm):
        """Token ids with -200 for pictures, and embeddings [1, positions, hidden] with images [i] [n, hidden] there."""
        embed = fast_vlm.get_input_embeddings()
        ids, parts = [], []
        for index, piece in enumerate(prompt.split("<image>")):
            if index:
                ids.append(-200)
                parts.append(images[index - 1])
            piece_ids = self.tokenizer.encode(piece, add_special_tokens=False).ids
            ids += piece_ids
            if piece_ids:
                parts.append(embed(torch.tensor(piece_ids)))
        assert len(images) == prompt.count("<image>")
        return ids, torch.cat(parts)[None]

    def logits(self, prompt, images, fast_vlm=None):
        fast_vlm = fast_vlm or self.fast_vlm
        with torch.no_grad():
            ids, embeddings = self.splice(prompt, images, fast_vlm)
            return ids, embeddings, fast_vlm(inputs_embeds=embeddings).logits[0]

    def ends(self, tokens):
        """The answer's tokens: up to the end-of-sequence token, which is not part of them."""
        end = (SPECIAL["<|im_end|>"], SPECIAL["<|endoftext|>"])
        return next((tokens[:i] for i, token in enumerate(tokens) if token in end), tokens)

    def generate(self, embeddings, fast_vlm=None, **options):
        with torch.no_grad():
            return (fast_vlm or self.fast_vlm).generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                do_sample=False,
                return_dict_in_generate=True,
                pad_token_id=SPECIAL["<|endoftext|>"],
                eos_token_id=[SPECIAL["<|im_end|>"], SPECIAL["<|endoftext|>"]],
                **options,
            )

    def greedy(self, embeddings, fast_vlm=None):
        """Tokens, by how much each led the second, and whether the end-of-sequence token ended them."""
        result = self.generate(embeddings, fast_vlm, max_new_tokens=NEW_TOKENS, output_logits=True)
        raw = result.sequences[0].tolist()
        tokens = self.ends(raw)
        margins = [round(float((best := step[0].topk(2).values)[0] - best[1]), 5) for step in result.logits]
        return {
            "greedy": tokens,
            "margins": margins,
            "finish_reason": "length" if len(tokens) == len(raw) else "stop",
            "greedy_text": self.tokenizer.decode(tokens, skip_special_tokens=True),
        }

    def beams(self, embeddings):
        options = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.0, "early_stopping": False}
        result = self.generate(embeddings, max_new_tokens=BEAM_TOKENS, output_scores=True, **options)
        return {
            "beam4": [self.ends(sequence) for sequence in result.sequences.tolist()],
            "beam4_scores": [round(score, 6) for score in result.sequences_scores.tolist()],
        }

    def case(self, index, question, names, projected):
        prompt = template(question if "<image>" in question else "<image>\n" * len(names) + question)
        ids, embeddings, logits = self.logits(prompt, [projected[name][0] for name in names])
        self.check_pixel_path(ids, names, logits)
        self.tensors[f"case{index}.logits"] = logits if index == 0 else logits[-4:]
        return {
            "question": question,
            "images": names,
            "template": "qwen_2",
            "prompt": prompt,
            "input_ids": ids,
            "positions": len(logits),
            **self.greedy(embeddings),
            **self.beams(embeddings),
        }

    def check_pixel_path(self, ids, names, logits):
        """fast_vlm's own way from pixels and ids must give what the splice gives."""
        count = (SIDE // 64) ** 2
        expanded = [token for i in ids for token in ([LLM["vocab_size"] - 1] * count if i == -200 else [i])]
        pixels = torch.cat([to_tower(pictures.pixels_pad(self.image(name), SIDE)) for name in names])
        with torch.no_grad():
            own = self.fast_vlm(input_ids=torch.tensor([expanded]), pixel_values=pixels).logits[0]
        assert float((own - logits).abs().max()) < 1e-4

    def image(self, name):
        return pictures.load_rgb(self.out / "images" / name)

    def variant(self, variant, own_head):
        config = variant["config"]
        mode, side = config.get("image_aspect_ratio", "pad"), variant.get("resolution", SIDE)
        fast_vlm = own_head if variant.get("layout") == "llava_bin" else self.fast_vlm
        merged = []
        for position, name in enumerate(variant["images"]):
            image = self.image(name)
            if mode == "anyres":
                features = self.features(pictures.pixels_anyres(image, side, PINPOINTS))
            else:
                features = self.features((pictures.pixels_pad if mode == "pad" else pictures.pixels_crop)(image, side))
            projected = self.project(features)
            kind = config.get("mm_patch_merge_type", "flat") if mode == "anyres" else "flat"
            merged.append(merge_tiles(projected, kind, image.size, self.newline))
            suffix = f".{position}" if position else ""
            self.tensors[f"{variant['name']}.projected{suffix}"] = projected
        prompt = template("<image>\n" * len(merged) + CASES[0][0])
        ids, embeddings, logits = self.logits(prompt, merged, fast_vlm)
        self.tensors[f"{variant['name']}.logits"] = logits[-4:]
        answer = self.greedy(embeddings, fast_vlm)
        settings = {**config, "image_grid_pinpoints": PINPOINTS} if mode == "anyres" else config
        return {
            "layout": "llava",
            **variant,
            "config": settings,
            "question": CASES[0][0],
            "input_ids": ids,
            "image_tokens": sum(len(tokens) for tokens in merged),
            "positions": len(logits),
            **answer,
        }

    def sample(self, index, settings, logits, ids):
        """Distribution after transformers' warpers, in its order; the penalty looks at the prompt's text tokens."""
        processors = LogitsProcessorList()
        if settings["repetition_penalty"]:
            processors.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
        processors.append(TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            processors.append(TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"]:
            processors.append(TopPLogitsWarper(settings["top_p"]))
        if settings["min_p"]:
            processors.append(MinPLogitsWarper(settings["min_p"]))
        history = torch.tensor([[token for token in ids if token >= 0]])
        self.tensors[f"sample{index}.probs"] = processors(history, logits[-1:].clone()).softmax(-1)[0]

    def apple(self, name, bits, config):
        """Write an Apple export and compute case 0 with what its files hold."""
        folder = self.out / name
        meaning = layouts.write_apple(folder, self.model, config, bits, self.tower, SIDE)
        fast_vlm = make_fast_vlm({**self.model, **meaning})
        pixels = to_tower(pictures.pixels_pad(self.image(CASES[0][1][0]), SIDE))
        features = Package(folder / "fastvithd.mlpackage").run(pixels)
        projected = self.project(features, fast_vlm)
        _, embeddings, logits = self.logits(template("<image>\n" + CASES[0][0]), [projected[0]], fast_vlm)
        key = name.removeprefix("apple_")
        values = {f"{key}.features": features, f"{key}.projected": projected, f"{key}.logits": logits[-12:]}
        return values, self.greedy(embeddings, fast_vlm)


def write_layouts(golden, config):
    """Every layout; returns the expectations of Apple's and transformers' model of the layout with its own head."""
    out = golden.out
    layouts.write_llava(out / "llava", golden.model, config, SPECIAL)
    own = {
        **golden.model,
        "lm_head.weight": made_up("lm_head.weight", golden.model["model.embed_tokens.weight"].shape, SEED),
    }
    layouts.write_llava_bin(out / "llava_bin", own, config, SPECIAL)  # its config.json still says tied
    layouts.write_hf(out / "hf", make_fast_vlm(golden.model), SIDE)
    tensors, answers = {}, {}
    for name, bits in (("apple_fp16", 16), ("apple_int8", 8), ("apple_int4", 4)):
        values, answers[name] = golden.apple(name, bits, config)
        tensors.update(values)
    files = {"llava_bin": ["vocab.json"], "hf": ["tokenizer.json"], "apple_int4": ["vocab.json"]}
    for name in ("llava", "llava_bin", "hf", *answers):
        layouts.write_tokenizer(
            out / name, golden.tokenizer, SPECIAL, files.get(name, ["tokenizer.json", "vocab.json"])
        )
    return tensors, answers, make_fast_vlm(own, tied=False)


def contiguous(tensors):
    return {name: tensors[name].contiguous() for name in sorted(tensors)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "tests" / "golden"
    parser.add_argument("out", nargs="?", type=Path, default=default)
    out = parser.parse_args().out
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in ("images", "llava", "llava_bin", "hf", "apple_fp16", "apple_int8", "apple_int4"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "images").mkdir(parents=True)

    sizes = pictures.draw_pictures(out / "images")
    golden = Golden(out)
    pixels, projected = {}, {}
    for name in sizes:
        image = golden.image(name)
        pixels[f"pixels.pad.{name}"] = torch.from_numpy(pictures.pixels_pad(image, SIDE))
        if name in CROPPED:
            pixels[f"pixels.square.{name}"] = torch.from_numpy(np.array(pictures.pixels_crop(image, SIDE)))
        features = golden.features(pictures.pixels_pad(image, SIDE))
        projected[name] = golden.project(features)
        golden.tensors.update({f"features.{name}": features, f"projected.{name}": projected[name]})
    for name in TILED:
        pixels[f"pixels.anyres.{name}"] = torch.from_numpy(pictures.pixels_anyres(golden.image(name), SIDE, PINPOINTS))
    with torch.no_grad():
        stages = golden.tower.stages(to_tower(pictures.pixels_pad(golden.image("shapes.png"), SIDE)))
    golden.tensors.update(
        {name.replace("vision.", "vision.shapes.png."): value for name, value in stages.items() if name != "features"}
    )

    config = layouts.llava_config(ARCH, LLM, SIDE, SPECIAL)
    apple_tensors, apple_answers, own_head = write_layouts(golden, config)
    cases = [golden.case(index, question, names, projected) for index, (question, names) in enumerate(CASES)]
    for index, settings in enumerate(SAMPLING):
        golden.sample(index, settings, golden.tensors["case0.logits"], cases[0]["input_ids"])
    variants = [golden.variant(variant, own_head) for variant in VARIANTS]

    save_file(contiguous(golden.tensors), out / "expected.safetensors")
    save_file(contiguous(apple_tensors), out / "expected_apple.safetensors")
    filters = [{"id": lzma.FILTER_DELTA, "dist": 3}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    packed = lzma.compress(save(contiguous(pixels)), filters=filters)
    (out / "pixels.safetensors.xz").write_bytes(packed)
    layouts.write_json(
        out / "expected.json",
        {
            "resolution": SIDE,
            "image_grid_pinpoints": PINPOINTS,
            "images": sizes,
            "cases": cases,
            "variants": variants,
            "apple": apple_answers,
            "sampling": SAMPLING,
        },
    )
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    least = min(margin for answer in [*cases, *variants, *apple_answers.values()] for margin in answer["margins"])
    print(f"{out}: {total / 1e6:.2f} MB, smallest greedy margin {least}")
    print(*(f"{case['finish_reason']}: {case['greedy_text']!r}" for case in cases), sep="\n")


if __name__ == "__main__":
    main()
