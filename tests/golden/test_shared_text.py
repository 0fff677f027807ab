"""The full Qwen2 tokenizer and every template against the published ones: ../shared/fixtures/{qwen2_tokenizer,text}."""

import json
import os
import resource

from golden_set import SHARED, run

FIXTURES = SHARED / "fixtures"
TOKENIZER = FIXTURES / "qwen2_tokenizer"


def lines(objects):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in objects).encode()


def answers(output):
    return [json.loads(line) for line in output.decode("utf-8").split("\n") if line]


def expected_texts():
    return answers((FIXTURES / "text" / "tokenizer.jsonl").read_bytes())


def test_tokenizer():
    expected = expected_texts()
    assert len(expected) > 1500
    output = run("tokenize", "--model", TOKENIZER, "--jsonl", stdin=lines({"text": line["text"]} for line in expected))
    got = answers(output)
    assert len(got) == len(expected)
    for key in ("ids", "decoded", "decoded_skip_special"):
        wrong = [(line["text"], line[key], value[key]) for line, value in zip(expected, got) if value[key] != line[key]]
        print(f"tokenizer {key}: {len(expected) - len(wrong)} of {len(expected)} equal")
        assert wrong == [], f"{len(wrong)} differ, the first: {wrong[0]}"


def processor_seconds():
    """Of all programs run so far: other work on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_megabyte_takes_under_a_second():
    """Of mixed text; the whole program, in processor time, the best of three."""
    texts, size = [], 0
    for line in expected_texts() * 100:
        texts.append(line["text"])
        size += len(line["text"].encode())
        if size >= 1_000_000:
            break
    stdin = lines([{"text": "".join(texts)}])
    load, seconds = [], []
    for _ in range(3):
        start = processor_seconds()
        run("tokenize", "--model", TOKENIZER, "--jsonl", stdin=lines([{"text": "a"}]))
        load.append(processor_seconds() - start)
        start = processor_seconds()
        run("tokenize", "--model", TOKENIZER, "--jsonl", stdin=stdin)
        seconds.append(processor_seconds() - start)
    print(f"tokenizing {size} bytes: {min(seconds):.3f} s, of which {min(load):.3f} s are the program's start")
    # FVLM_SLOWNESS: sanitizers and emulators are no measure of speed.
    assert min(seconds) - min(load) < float(os.environ.get("FVLM_SLOWNESS", "1"))


def test_templates():
    expected = json.loads((FIXTURES / "text" / "conversations.json").read_text(encoding="utf-8"))
    assert len(expected) > 40
    stdin = lines({"template": case["template"], "turns": case["turns"]} for case in expected)
    got = [value["prompt"] for value in answers(run("template", "--jsonl", stdin=stdin))]
    wrong = [
        (case["template"], case["prompt"], prompt) for case, prompt in zip(expected, got) if case["prompt"] != prompt
    ]
    print(f"templates: {len(expected) - len(wrong)} of {len(expected)} equal")
    assert len(got) == len(expected) and wrong == []
