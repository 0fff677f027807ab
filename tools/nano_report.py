"""What the built-in model answers about drawn pictures, as pages: run by hand after training, in the top folder.

    /usr/bin/python3 tools/nano_report.py examples                    docs/examples.md and its pictures
    /usr/bin/python3 tools/nano_report.py scores --checkpoint FOLDER  the tables in models/nano/README.md

`scores` draws held-out pictures, by seeds that training does not use, until there are --count questions of each type, and
compares the model as it ships with faster arithmetic, with a camera's distortions, and, where the folder it was made from
is given, with unrounded weights and with 4 bits. Pictures stay in the work folder and are used again.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
KINDS = ["objects", "text", "chart", "clock", "sign", "face", "screen"]
EXAMPLES_SEED, SCORES_SEED, CALIBRATION_SEED = 424242, 700000, 800000  # training's seeds are far below
GOALS = {"colour": 98, "shape": 98, "background": 98, "yes/no": 98, "position": 95, "count": 95, "reading": 95, "word": 90,
         "description": 85, "chart": 85, "clock": 85}


def run(options, tool, *arguments):
    """A program of the build folder; what it prints."""
    command = [str(options.build / tool), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def draw(options, folder, *arguments):
    """The samples of a data set, drawn anew, each with its picture's path."""
    shutil.rmtree(folder, ignore_errors=True)
    run(options, "tools/scenes/draw_scenes", "--output", folder, *arguments)
    samples = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    return [{**sample, "image": str(folder / sample["image"])} for sample in samples]


def ask(options, samples, work, *arguments):
    """The predictions of `eval`, in the samples' order."""
    data, out = work / "ask.jsonl", work / "answers.jsonl"
    data.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    run(options, "fastvlm", "eval", "--data", data, "--predictions", out, *arguments)
    return [json.loads(line) for line in out.read_text().splitlines()]


def single_questions(sample, most):
    """One sample a question: the description, and the first others."""
    turns = [turn["value"].removeprefix("<image>\n") for turn in sample["conversations"]]
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    pairs.sort(key=lambda pair: not pair[1].endswith("."))
    return [{"image": sample["image"], "conversations": [{"from": "human", "value": "<image>\n" + question},
                                                         {"from": "gpt", "value": answer}]}
            for question, answer in pairs[:most]]


def write_examples(options):
    pictures, samples = [], []
    for kind in KINDS:
        for number, camera in ((1, 0), (2, 1)):
            sample, = draw(options, options.work / "drawn", "--kinds", kind, "--count", 1, "--seed", options.seed + number,
                           "--camera", camera)
            name = options.pages / "examples" / f"{kind}-{number}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample["image"], name)
            asked = single_questions({**sample, "image": str(name)}, 3)
            pictures.append((kind, name.name, len(asked)))
            samples += asked
    answers = iter(ask(options, samples, options.work, "--model", options.model))
    right, lines = 0, []
    for i, (kind, name, count) in enumerate(pictures):
        if i % 2 == 0:
            lines += [f"## {kind.capitalize()}", ""]
        lines += [f"![{kind}](examples/{name})", "", "| question | answer | |", "|---|---|---|"]
        for _ in range(count):
            answer = next(answers)
            right += answer["correct"]
            verdict = "right" if answer["correct"] else f"**wrong**: {answer['reference']}"
            lines.append(f"| {answer['question'].removeprefix('<image>').strip()} | {cell(answer['answer'])} | {verdict} |")
        lines.append("")
    head = ["# Examples", "",
            "What the built-in model answers about pictures that it has not seen. tools/nano_report.py wrote this page: the",
            "pictures are the first ones of their seeds, the second of each kind as a camera would see it, and the answers are",
            f"what the program said. {right} of {len(samples)} are right; the others are marked.", ""]
    (options.pages / "examples.md").write_text("\n".join(head + lines).rstrip("\n") + "\n")


def cell(text):
    """Text for a table's cell: what a model says may be anything."""
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(text.split())) or "(nothing)"


def collect(options, camera):
    """Samples, `count` of each type where that many came up, of all kinds of pictures in turns."""
    folder = options.work / f"camera-{camera}-{options.seed}-{options.count}"
    kept = folder / "kept.json"
    if kept.exists():
        return json.loads(kept.read_text())
    found = {}  # type -> kind -> samples
    for kind in KINDS:
        for i in range(options.rounds):
            seen = set()
            for sample in draw(options, folder / f"{kind}-{i}", "--single", "--kinds", kind, "--count", options.batch, "--seed",
                               options.seed + i, "--camera", camera):
                seen.add(sample["type"])
                of_kind = found.setdefault(sample["type"], {}).setdefault(kind, [])
                if len(of_kind) < options.count:
                    of_kind.append(sample)
                else:
                    pathlib.Path(sample["image"]).unlink()
            if all(len(found[name][kind]) >= options.count for name in seen):
                break
    samples = []
    for name in sorted(found):
        kinds = list(found[name].values())
        in_turns = [of_kind[i] for i in range(options.count) for of_kind in kinds if i < len(of_kind)]
        samples += in_turns[:options.count]
    kept.write_text(json.dumps(samples))
    return samples


def score(options, samples, *arguments):
    """Type -> percentage of answers that are right; how many of each there were."""
    totals, right = {}, {}
    for answer in ask(options, samples, options.work, *arguments):
        totals[answer["kind"]] = totals.get(answer["kind"], 0) + 1
        right[answer["kind"]] = right.get(answer["kind"], 0) + answer["correct"]
    totals["all"], right["all"] = sum(totals.values()), sum(right.values())
    return {kind: 100 * right[kind] / totals[kind] for kind in totals}, totals


def four_bits(options):
    """The checkpoint in 4 bits, by GPTQ on other pictures."""
    file, data = options.work / "four-bits.gguf", options.work / "calibration"
    draw(options, data, "--count", 64, "--seed", CALIBRATION_SEED, "--questions", 4)
    run(options, "fastvlm", "quantize", "--model", options.checkpoint, "--output", file, "--type", "q4_0", "--keep",
        "embed=q8_0", "--calibration", data, "--quiet")
    return file


def shape(options):
    """What the model is, as rows of a table."""
    folder = options.work / "as-folder"
    shutil.rmtree(folder, ignore_errors=True)
    run(options, "fastvlm", "convert", "--model", options.model, "--output", folder, "--to", "llava", "--quiet")
    config = json.loads((folder / "config.json").read_text())
    tower = config["mm_vision_arch"]
    inspected = json.loads(run(options, "fastvlm", "inspect", options.model, "--json"))
    bench = json.loads(run(options, "fastvlm", "bench", "--model", options.model, "--runs", 20, "--json"))
    types = {tensor["type"]: 0 for tensor in inspected["tensors"]}
    for tensor in inspected["tensors"]:
        types[tensor["type"]] += tensor["bytes"]
    return [
        ("vision tower", f"FastViTHD with {listed(tower['layers'])} blocks of {listed(tower['embed_dims'])} channels"),
        ("picture", f"{bench['resolution']} px, {bench['image_tokens']} tokens"),
        ("language model", f"Qwen2 with {config['num_hidden_layers']} layers of {config['hidden_size']}, "
                           f"{config['num_attention_heads']} heads ({config['num_key_value_heads']} for keys and values), "
                           f"{config['vocab_size']} tokens"),
        ("parameters", f"{inspected['elements'] / 1e6:.1f} million"),
        ("weights", ", ".join(f"{size / 1e6:.2f} MB of {name}" for name, size in types.items())),
        ("time to first token", f"{bench['ttft_ms']:.0f} ms with {bench['threads']} threads ({bench['isa']})")]


def listed(numbers):
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"


def fill(card, section, lines):
    """Put lines between the marks of a section."""
    before, rest = card.read_text().split(f"<!-- {section} -->\n", 1)
    after = rest.split("<!-- end -->\n", 1)[1]
    card.write_text(f"{before}<!-- {section} -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{after}")


def write_scores(options):
    card = options.pages / "README.md"
    fill(card, "shape", ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in shape(options))])
    clean, distorted = collect(options, 0), collect(options, 1)
    shipped = ["--model", options.model]
    columns = [("as it ships", clean, shipped), ("camera", distorted, shipped),
               ("bf16", clean, [*shipped, "--precision", "bf16"]), ("int8", clean, [*shipped, "--precision", "int8"])]
    if options.checkpoint:
        four = ["--model", four_bits(options)]
        columns += [("unrounded", clean, ["--model", options.checkpoint]), ("4 bits", clean, four),
                    ("4 bits, int8", clean, [*four, "--precision", "int8"])]
    scores = []
    for name, samples, arguments in columns:
        scores.append(score(options, samples, *arguments))
        print(f"{name}: {scores[-1][0]['all']:.2f} %", flush=True)
    totals = scores[0][1]
    lines = ["| type | questions | goal | " + " | ".join(name for name, _, _ in columns) + " |",
             "|---|--:|--:|" + "--:|" * len(columns)]
    for kind in [*sorted(kind for kind in totals if kind != "all"), "all"]:
        percentages = " | ".join(f"{per_kind[kind]:.1f}" if kind in per_kind else "" for per_kind, _ in scores)
        lines.append(f"| {kind} | {totals[kind]} | {GOALS.get(kind, '')} | {percentages} |")
    fill(card, "scores", lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("page", choices=["examples", "scores"])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--model", default="nano", help="another than the built-in one")
    parser.add_argument("--checkpoint", help="the folder that the model was made from")
    parser.add_argument("--count", type=int, default=2000, help="questions of a type")
    parser.add_argument("--batch", type=int, default=1000, help="pictures that are drawn at a time")
    parser.add_argument("--rounds", type=int, default=60, help="draw at most so many batches of a kind")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--work", type=pathlib.Path, help="folder for pictures (default: nano-report in the build folder)")
    parser.add_argument("--pages", type=pathlib.Path, help="folder of the page (default: docs, models/nano)")
    options = parser.parse_args()
    examples = options.page == "examples"
    options.seed = options.seed or (EXAMPLES_SEED if examples else SCORES_SEED)
    options.work = options.work or options.build / "nano-report"
    options.pages = options.pages or ROOT / ("docs" if examples else "models/nano")
    options.work.mkdir(parents=True, exist_ok=True)
    (write_examples if examples else write_scores)(options)


if __name__ == "__main__":
    main()
