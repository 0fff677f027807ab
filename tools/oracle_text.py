#!/usr/bin/env python3
"""Makes tests/data/text: what the tokenizers library and the published templates make of texts and conversations.

    build/oracle/bin/python tools/oracle_text.py CONVERSATION.PY [OUT]            (default: tests/data/text)

CONVERSATION.PY is llava/conversation.py of the published code; the environment is that of tools/oracle.py. Texts and
conversations are a fixed function of the seed below.

tokenizer.json, vocab.json, merges.txt, added_tokens.json, tokenizer_config.json
                      a small tokenizer of Qwen2's kind, trained on the texts
tokenizer.jsonl       a line a text: {"text", "ids", "decoded", "decoded_skip_special"}
conversations.json    [{"template", "turns": [["u"|"a", text or null], ...], "system" (optional), "prompt"}]; "prompt" is
                      null where the published code refuses
"""

import argparse
import importlib.util
import json
import random
import sys
import types
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[1]
SEED = 7
TEXTS = 260
CONVERSATIONS = 9  # random ones a template
TOKENS = 480  # before the special ones
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")

WORDS = [
    "the", " The", "What", " is", " shown", "picture", "?", "!", "...", " 2024", "1", "'s", "'LL", "don't", " don't",
    "\n", "\n\n", "\r\n", "\t", " ", "   ", "\u3000", "\u00a0", "\u180e", "\u0085", "\u2028", "a" * 70, "ab" * 40,
    "e\u0301", "\u00e9", "\u0316\u0301", "\u0301\u0316", "\u1100\u1161\u11a8", "\uac00", "\u4f60\u597d", "\u4e16",
    "\U0001f600", "\U0001f469\u200d\U0001f467", "\u0928\u092e\u0938\u094d", "\u0645\u0631", "\u017f", "\ufb01",
    "\u2126", "\U00031350", "\u2167", "\u0663", "_", "-", "\x00", "\x7f", "\ufeff", "\ufffd", "{}", "/*", "<|im_start|>",
    "<|im_end|>", "<|endoftext|>", "<|im_", "|>", "<image>",
]
PIECES = ["<image>\n", "Hi", "<s>", "</s>", "###", " ", "\u00e9", "\n", "<<SYS>>", "[INST]", "<|im_end|>", "<", "s>"]
TAG = "<|im_start|>system\n"  # the published system texts of the tag styles begin with it


def texts(chooser):
    yield ""
    for word in WORDS:
        yield word
    for _ in range(TEXTS - len(WORDS) - 1):
        yield "".join(chooser.choice(WORDS) for _ in range(chooser.randint(2, 10)))


def train(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def write_tokenizer(tokenizer, out):
    tokenizer.model.save(str(out))  # vocab.json and merges.txt
    (out / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    (out / "added_tokens.json").write_text(json.dumps(ids) + "\n")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {"added_tokens_decoder": {str(i): {"content": token, **flags} for token, i in ids.items()},
              "tokenizer_class": "Qwen2Tokenizer"}
    (out / "tokenizer_config.json").write_text(json.dumps(config) + "\n")


def write_tokens(tokenizer, path, chooser):
    with open(path, "w", encoding="utf-8") as file:
        for text in texts(chooser):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if chooser.random() < 0.2:  # tokens in an order that no text gives: broken characters
                ids = [chooser.randrange(tokenizer.get_vocab_size() + 9) for _ in range(8)]
                text = None
            decoded = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
            row = {"text": text, "ids": ids, "decoded": decoded[0], "decoded_skip_special": decoded[1]}
            file.write(json.dumps(row) + "\n")


def load_conversations(path):
    for name in ("PIL", "PIL.Image"):  # it imports Pillow for its web page
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["PIL"].Image = sys.modules["PIL.Image"]
    specification = importlib.util.spec_from_file_location("conversation", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["conversation"] = module
    specification.loader.exec_module(module)
    return module.conv_templates


def random_turns(chooser):
    alternating = chooser.random() < 0.6
    count = chooser.randint(0, 5)
    turns = []
    for place in range(count):
        role = "ua"[place % 2 if alternating else chooser.randint(0, 1)]
        text = "".join(chooser.choice(PIECES) for _ in range(chooser.randint(0, 4)))
        turns.append([role, None if chooser.random() < 0.15 else text])
    return turns


def render(template, turns, system):
    conversation = template.copy()
    if system is not None:
        conversation.system = (TAG if conversation.system.startswith(TAG) else "") + system
    for role, text in turns:
        conversation.append_message(conversation.roles["ua".index(role)], text)
    return conversation.get_prompt()


def conversations(templates, chooser):
    fixed = [
        [["u", "<image>\nWhat is it?"], ["a", None]],
        [["u", "<image>\nWhat is it?"], ["a", "A red square."], ["u", "And now?"], ["a", None]],
    ]
    for name, template in templates.items():
        for i, turns in enumerate(fixed + [random_turns(chooser) for _ in range(CONVERSATIONS)]):
            row = {"template": name, "turns": turns}
            if i % 4 == 3:
                row["system"] = chooser.choice(["", "Answer in verse."])
            try:
                row["prompt"] = render(template, turns, row.get("system"))
            except AssertionError:
                row["prompt"] = None
            except TypeError:  # "plain" has no separator for an answer: the published code fails by accident
                continue
            yield row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("conversation", type=Path)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "tests/data/text")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chooser = random.Random(SEED)
    tokenizer = train(list(texts(random.Random(SEED))))
    write_tokenizer(tokenizer, options.out)
    write_tokens(tokenizer, options.out / "tokenizer.jsonl", chooser)
    rows = list(conversations(load_conversations(options.conversation), chooser))
    (options.out / "conversations.json").write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
