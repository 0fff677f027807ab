#!/usr/bin/env python3
"""Makes tests/golden/train.json and training.json: a small data set, and what PyTorch makes of training on it.

    build/oracle/bin/python tools/oracle_training.py [SET]   (after oracle.py; default: tests/golden)

The model is transformers' fast_vlm from the set's `hf` folder, in float64. A gradient, or a parameter after AdamW, is
kept as its L2 norm and its products with two fixed vectors (`probe`), since the tensors themselves would be megabytes.
"""

import json
import lzma
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load
from tokenizers import Tokenizer
from transformers import FastVlmForConditionalGeneration

import oracle_layouts as layouts
from oracle_tower import PREFIX

SAMPLES = [
    {
        "id": "two turns",
        "image": "photo.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "Lines and shapes."},
            {"from": "human", "value": "Which colours?"},
            {"from": "gpt", "value": "Green and blue."},
        ],
    },
    {
        "id": "picture last",
        "image": "shapes.png",
        "conversations": [
            {"from": "human", "value": "Name it.\n<image>"},
            {"from": "gpt", "value": "A drawing"},
        ],
    },
    {
        "id": "text only",
        "conversations": [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello, world!"}],
    },
]
ADAMW = {"lr": 2e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "warmup_steps": 2, "total_steps": 10}
NOT_SUPERVISED, PICTURE = -100, -200


def probe(values):
    """L2 norm of an array, and in millionths of it the products with two vectors that have no period in common."""
    values = np.asarray(values, np.float64).ravel()
    at = np.arange(1, values.size + 1)
    norm = np.linalg.norm(values)
    products = values @ np.sin(at), values @ np.cos(math.pi * at**1.5)
    return [float(f"{norm:.6g}"), *(round(1e6 * product / norm) for product in products)]


def rows(tokenizer, sample):
    """Ids and labels of a conversation under the template qwen_2: every answer and what ends it is supervised."""
    pieces = [("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", False)]
    for turn in sample["conversations"]:
        text = turn["value"]
        if turn["from"] == "human":
            if "<image>" in text:
                text = "<image>\n" + text.replace("<image>", "").strip()
            pieces.append((f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", False))
        else:
            pieces.append((f"{text}<|im_end|>\n", True))
    ids, labels = [], []
    for text, supervised in pieces:
        for part, after in zip(text.split("<image>"), [*["<image>"] * text.count("<image>"), None]):
            new = tokenizer.encode(part, add_special_tokens=False).ids
            ids += new
            labels += new if supervised else [NOT_SUPERVISED] * len(new)
            if after:
                ids.append(PICTURE)
                labels.append(NOT_SUPERVISED)
    return ids, labels


class Training:
    def __init__(self, folder):
        self.folder = folder
        self.model = FastVlmForConditionalGeneration.from_pretrained(
            folder / "hf", dtype=torch.float64, attn_implementation="eager"
        ).eval()
        tokenizer = Tokenizer.from_file(str(folder / "hf" / "tokenizer.json"))
        self.rows = [rows(tokenizer, sample) for sample in SAMPLES]
        pixels = load(lzma.decompress((folder / "pixels.safetensors.xz").read_bytes()))
        pictures = [pixels.get(f"pixels.pad.{sample.get('image')}") for sample in SAMPLES]
        side = next(picture.shape[0] for picture in pictures if picture is not None)
        black = np.zeros((side, side, 3), np.uint8)  # stands for a missing picture, as in the published code
        stack = np.stack([black if picture is None else picture for picture in pictures])
        self.pixels = torch.from_numpy(stack).double().permute(0, 3, 1, 2) / 255
        arch = json.loads((folder / "llava" / "config.json").read_text())["mm_vision_arch"]
        self.arch = arch

    def named(self):
        """LLaVA's name -> parameter."""
        names = json.loads((self.folder / "llava" / "model.safetensors.index.json").read_text())["weight_map"]
        other = layouts.hf_state({name: name for name in names}, self.arch)
        found = {other[name]: value for name, value in self.model.named_parameters() if name in other}
        assert len(found) == len(list(self.model.parameters()))
        return found

    def batch_statistics(self, on):
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.train(on)
                module.momentum = 0.0  # leave the running ones alone

    def loss(self):
        features = self.model.get_image_features(self.pixels)
        features = getattr(features, "pooler_output", features)
        total, count = 0, 0
        for (ids, labels), picture in zip(self.rows, features):
            parts, wanted = [], []
            for token, label in zip(ids, labels):
                shown = token == PICTURE
                parts.append(picture if shown else self.model.get_input_embeddings()(torch.tensor([token])))
                wanted += [NOT_SUPERVISED] * len(picture) if shown else [label]
            logits = self.model(inputs_embeds=torch.cat(parts)[None]).logits[0, :-1]
            wanted = torch.tensor(wanted[1:])
            total = total + torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
            count += int((wanted != NOT_SUPERVISED).sum())
        return total / count

    def gradients(self, batch):
        self.batch_statistics(batch)
        self.model.zero_grad()
        loss = self.loss()
        loss.backward()
        self.batch_statistics(False)
        return loss.item(), {name: probe(value.grad) for name, value in self.named().items()}

    def adamw(self):
        optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=ADAMW["betas"], eps=ADAMW["eps"], weight_decay=ADAMW["weight_decay"]
        )
        steps, warmup, total = [], ADAMW["warmup_steps"], ADAMW["total_steps"]
        for step in range(total):
            rest = (step - warmup) / (total - warmup)
            rate = ADAMW["lr"] * (step / warmup if step < warmup else (1 + math.cos(math.pi * rest)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            steps.append({"loss": round(loss.item(), 6), "grad_norm": round(norm.item(), 6), "lr": rate})
        return steps, {name: probe(value.detach()) for name, value in self.named().items()}


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "tests" / "golden")
    torch.use_deterministic_algorithms(True)
    training = Training(folder)
    names = sorted(training.named())
    made = {"samples": [{"input_ids": ids, "labels": labels} for ids, labels in training.rows], "adamw": dict(ADAMW)}
    for name, batch in (("bn_eval", False), ("bn_train", True)):
        made[f"loss_{name}"], probes = training.gradients(batch)
        made[name] = [probes[parameter] for parameter in names]
    made["adamw"]["steps"], probes = training.adamw()
    made["adamw"]["after"] = [probes[parameter] for parameter in names]
    made["names"] = [name.replace(PREFIX, "tower.") for name in names]  # of the three lists
    (folder / "train.json").write_text(json.dumps(SAMPLES, indent=1) + "\n")
    (folder / "training.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
