"""Made-up pictures: the same every time, true questions about them, and data that `train` and `eval` take."""
import collections
import json
import os
import pathlib
import re
import subprocess

import pytest

BUILD = pathlib.Path(os.environ["FVLM_BUILD"])
MODEL = pathlib.Path(__file__).resolve().parents[1] / "golden" / "llava"
COLOURS = ["red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey", "turquoise"]
SHAPES = ["circle", "square", "triangle", "rectangle", "oval", "star", "heart", "diamond", "cross", "pentagon", "hexagon",
          "ring", "crescent"]
PLACES = ["top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"]


def draw(folder, *options, code=0):
    command = [BUILD / "tools" / "scenes" / "draw_scenes", "--output", folder, *options]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert run.returncode == code, run.stderr
    return run.stderr


def lines(folder):
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def asked(line):
    texts = [turn["value"].removeprefix("<image>\n") for turn in line["conversations"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_same_options_same_bytes(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / name, "--count", 28, "--seed", 5, "--side", 96)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 29
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    draw(tmp_path / "c", "--count", 28, "--seed", 6, "--side", 96)
    assert (tmp_path / "a" / "data.jsonl").read_bytes() != (tmp_path / "c" / "data.jsonl").read_bytes()


def objects_described(line):
    """What the description says: (colour, shape, place) of each object, and the ground."""
    text, = [answer for _, answer in asked(line) if "background." in answer]
    *_, ground = re.match(r"(.*) on an? (\w+) background\.$", text).groups()
    return re.findall(r"\b[Aa]n? (\w+) (\w+) at the (" + "|".join(sorted(PLACES, key=len, reverse=True)) + r")\b", text), ground


def test_answers_agree(tmp_path):
    """Each question's answer follows from the description, which another piece of code writes."""
    draw(tmp_path, "--count", 400, "--side", 48, "--kinds", "objects")
    seen = collections.Counter()
    for line in lines(tmp_path):
        objects, ground = objects_described(line)
        colours, shapes = [o[0] for o in objects], [o[1] for o in objects]
        for question, answer in asked(line):
            if "background" in question:
                seen["ground"] += 1
                assert answer == ground
            elif match := re.match(r"(?:What colou?r is|What is the colour of|Which colour does) the (\w+)(?: have)?\?$", question):
                seen["colour"] += 1
                if match[1] in shapes:
                    assert answer == colours[shapes.index(match[1])]
                elif match[1] in SHAPES:
                    assert answer == f"I cannot see a{'n' * (match[1] == 'oval')} {match[1]}."
            elif match := re.match(r"(?:Is there|Do you see|Does the picture show|Can you see) an? (?:(\w+) )?(\w+)(?: in the picture)?\?$",
                                   question):
                seen["yes/no"] += 1
                there = any(shape == match[2] and match[1] in (None, colour) for colour, shape, _ in objects)
                assert answer == ("yes" if there else "no"), question
            elif match := re.match(r"(?:How many|Count the) (\w+?)(?:e?s)?( objects)?\b", question):
                seen["count"] += 1
                what = match[1]
                count = (colours.count(what) if match[2] else len(objects) if what in ("object", "shape")
                         else shapes.count(what) if what in shapes else None)
                assert count is None or answer == str(count), question
            elif question.startswith(("Where", "In which part")):
                seen["place"] += 1
                shape = re.search(r"(\w+)\?$", question)[1]
                assert shape not in shapes or answer == objects[shapes.index(shape)][2]
    assert min(seen[kind] for kind in ("ground", "colour", "yes/no", "count", "place")) >= 300, seen


def test_labels_agree(tmp_path):
    draw(tmp_path, "--count", 100, "--side", 48, "--kinds", "objects", "--camera", 0)
    for line in lines(tmp_path):
        objects, ground = objects_described(line)
        labels = line["labels"]
        assert COLOURS[labels["background"]] == ground
        marked = [(COLOURS[mark["colour"] - 1], SHAPES[mark["thing"] - 1], PLACES[int(mark["at"][1] * 3) * 3 + int(mark["at"][0] * 3)])
                  for mark in line["marks"]]
        assert sorted(marked) == sorted(objects)


def test_answers_are_balanced(tmp_path):
    draw(tmp_path, "--count", 600, "--side", 32)
    answers = collections.Counter(answer for line in lines(tmp_path) for _, answer in asked(line))
    assert 0.7 < answers["yes"] / answers["no"] < 1.6
    assert min(answers[colour] for colour in COLOURS[:11]) > 0.2 * max(answers[colour] for colour in COLOURS[:11])


def test_something_new(tmp_path):
    draw(tmp_path / "old", "--count", 200, "--side", 32, "--kinds", "objects")
    draw(tmp_path / "new", "--count", 50, "--side", 32, "--kinds", "objects", "--fresh")
    fresh = re.compile("turquoise object|crescent|turquoise")
    assert not any(colour == "turquoise" or shape == "crescent"
                   for line in lines(tmp_path / "old") for colour, shape, _ in objects_described(line)[0])
    assert all(any(fresh.search(" ".join(o)) for o in objects_described(line)[0]) for line in lines(tmp_path / "new"))


def test_training_and_evaluation_take_it(tmp_path):
    draw(tmp_path / "set", "--count", 8, "--side", 64, "--questions", 2)
    draw(tmp_path / "one", "--count", 8, "--side", 64, "--single")
    run = subprocess.run([BUILD / "fastvlm", "train", "--model", MODEL, "--data", tmp_path / "set" / "data.jsonl", "--image-folder",
                          tmp_path / "set", "--tune", "projector", "--batch-size", "4", "--output", tmp_path / "tuned"],
                         capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    run = subprocess.run([BUILD / "fastvlm", "eval", "--model", MODEL, "--data", tmp_path / "one" / "data.jsonl", "--image-folder",
                          tmp_path / "one", "--max-tokens", "4", "--json"], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert {line["type"] for line in lines(tmp_path / "one")} <= set(re.findall(r'"([a-z/]+)"', run.stdout))


@pytest.mark.parametrize("options,word", [(["--kinds", "stars"], "stars"), (["--count", "0"], "--help"), (["--nonsense"], "nonsense")])
def test_wrong_usage(tmp_path, options, word):
    assert word in draw(tmp_path / "x", *options, code=2)


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in draw(tmp_path / "file" / "x", "--count", "1", code=1)


@pytest.mark.skipif(bool(os.environ.get("FVLM_WRAPPER")) or int(os.environ.get("FVLM_SLOWNESS", "1")) > 1,
                    reason="minutes of training under an emulator or a sanitizer; cli-train and golden-training run there")
def test_recipe_of_the_built_in_model(tmp_path):
    """All its stages, on a two-hundredth of the pictures and steps; a second call has nothing left to do."""
    script = pathlib.Path(__file__).resolve().parents[2] / "tools" / "nano" / "train.sh"
    run = [subprocess.run([script, BUILD, tmp_path, "5"], capture_output=True, text=True, timeout=600) for _ in range(2)]
    assert [r.returncode for r in run] == [0, 0], run[0].stderr
    assert "training joint" in run[0].stdout and "training" not in run[1].stdout.replace("nano.gguf is trained", "")
    assert (tmp_path / "nano.gguf").stat().st_size < 12e6
