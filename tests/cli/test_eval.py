"""eval: scores that are known beforehand, since the references are the model's own answers; and faulty data sets."""
import json
import math

import pytest

from conftest import GOLDEN

IMAGES = GOLDEN / "images"
LENGTH = ["--max-tokens", "6"]


@pytest.fixture
def said(fastvlm, model):
    """The model's greedy answer to one question about one picture."""

    def run(image, question):
        return fastvlm("predict", "--model", model, "--image", IMAGES / image, "--prompt", question, "--temperature", "0",
                       *LENGTH, "--json").json["text"]

    return run


@pytest.fixture
def evaluate(fastvlm, model, tmp_path):
    def run(samples, *arguments, lines=False):
        data = tmp_path / "data.json"
        data.write_text("\n".join(map(json.dumps, samples)) if lines else json.dumps(samples))
        return fastvlm("eval", "--model", model, "--data", data, "--image-folder", IMAGES, *LENGTH, *arguments)

    return run


def sample(name, image, *turns, **more):
    conversation = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
    return {"id": name, **({"image": image} if image else {}), "conversations": conversation, **more}


@pytest.fixture
def samples(said):
    return [
        sample("right", "photo.jpg", "<image>\nWhat is it?", "  " + said("photo.jpg", "What is it?") + "\n"),
        sample("moved", "shapes.png", "How many?\n<image>", said("shapes.png", "How many?")),
        sample("wrong", "photo.jpg", "<image>\nWhat is it?", "surely not this"),
        sample("typed", "grey.png", "<image>\nWhy?", said("grey.png", "Why?"), type="reason"),
    ]


@pytest.mark.parametrize("lines", [False, True], ids=["list", "lines"])
def test_scores(evaluate, samples, lines):
    result = evaluate(samples, "--json", lines=lines)
    score = result.json
    assert (score["correct"], score["total"], score["accuracy"]) == (3, 4, 0.75)
    assert {kind: (row["correct"], row["total"]) for kind, row in score["kinds"].items()} == {
        "what": (1, 2), "how": (1, 1), "reason": (1, 1)}
    assert "evaluating: 4 of 4 questions" in result.err
    table = evaluate(samples, "--quiet", lines=lines)
    assert table.err == ""
    assert [line.split() for line in table.out.splitlines()[1:]] == [
        ["what", "1", "2", "50.0%"], ["how", "1", "1", "100.0%"], ["reason", "1", "1", "100.0%"],
        ["all", "3", "4", "75.0%"]]


def test_later_questions_see_the_references(evaluate, chat_answers):
    first, second = chat_answers
    turns = ["<image>\nWhat is it?", first, "Why?", second]
    score = evaluate([sample("two turns", "photo.jpg", *turns)], "--json").json
    assert (score["correct"], score["total"]) == (2, 2)


@pytest.fixture
def chat_answers(fastvlm, model):
    result = fastvlm("chat", "--model", model, "--image", IMAGES / "photo.jpg", "--temperature", "0", *LENGTH, "--json",
                     input="What is it?\nWhy?\n")
    return [json.loads(line)["text"] for line in result.out.splitlines()]


def test_several_pictures_and_none(evaluate):
    data = [sample("pair", ["photo.jpg", "grey.png"], "<image>\n<image>\nSame?", "?"), sample("text", None, "Hello", "?")]
    assert evaluate(data, "--json").json["total"] == 2


def test_predictions(evaluate, samples, tmp_path):
    out = tmp_path / "answers.jsonl"
    evaluate(samples, "--json", "--predictions", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["correct"]) for row in rows] == [("right", True), ("moved", True), ("wrong", False),
                                                             ("typed", True)]
    assert rows[1]["question"] == "<image>\nHow many?" and rows[2]["reference"] == "surely not this"


@pytest.mark.parametrize("bad, words", [
    (sample("a", "missing.jpg", "<image>\nx", "y"), "missing.jpg"),
    (sample("a", "photo.jpg", "no placeholder", "y"), "1 pictures are given and 0 <image>"),
    (sample("a", None, "<image>\nx", "y"), "0 pictures are given and 1 <image>"),
    (sample("a", "photo.jpg", "<image>\nx"), "followed by its answer"),
    (sample("a", 7, "<image>\nx", "y"), "image"),
    (sample("a", ["photo.jpg", 7], "<image><image>\nx", "y"), "image"),
    ({"id": "a", "conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}, "human"),
    ({"id": "a", "conversations": [{"from": "human"}, {"from": "gpt", "value": "y"}]}, "turn 1"),
    ({"id": "a"}, "conversations"),
    ({**sample("a", None, "x", "y"), "answers": [1]}, "answers"),
    ({**sample("a", None, "x", "y"), "answers": "z"}, "answers"),
    ("text", "not valid JSON"),
    ([1], "not a JSON object"),
])
def test_faulty_samples(evaluate, bad, words):
    evaluate([bad], "--json").failed(1, words)


@pytest.mark.parametrize("text, words", [("", "no samples"), ("[]", "no samples"), ("[{]", "cut off"), ('{"id": 1}\n{', "sample 1"),
                                         ('[{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}, {]}]',
                                          "sample 2")])
def test_faulty_files(fastvlm, model, tmp_path, text, words):
    data = tmp_path / "data.json"
    data.write_text(text)
    fastvlm("eval", "--model", model, "--data", data).failed(1, str(data), words)


def test_usage(fastvlm, model, tmp_path):
    fastvlm("eval", "--model", model).failed(2, "--data")
    fastvlm("eval", "--model", model, "--data", tmp_path / "none.json").failed(1, "none.json")
    data = tmp_path / "data.json"
    data.write_text(json.dumps([sample("a", None, "x", "y")]))
    fastvlm("eval", "--model", model, "--data", data, "--metric", "exact,bleu").failed(2, "'bleu'")


# Metrics.


def changed(text, count):
    """With the last `count` characters replaced by others."""
    return text[:-count] + "".join("y" if c == "x" else "x" for c in text[-count:])


def test_anls(evaluate, said):
    own = said("photo.jpg", "What is it?").strip()
    assert len(own) >= 6 and own.lower() == own and "  " not in own
    length = len(own)

    def score(*references):
        data = [{**sample("a", "photo.jpg", "<image>\nWhat is it?", references[0]), "answers": list(references)}]
        return evaluate(data, "--metric", "anls", "--json").json["anls"]

    assert score(own) == 1 and score(f"  {own.upper()} ") == 1
    assert score(changed(own, 1)) == pytest.approx(1 - 1 / length)
    assert score(own + "xx") == pytest.approx(1 - 2 / (length + 2))
    assert score(own[1:]) == pytest.approx(1 - 1 / length)
    assert score(changed(own, 3), changed(own, 2)) == pytest.approx(1 - 2 / length)  # the nearest
    assert score(changed(own, length // 2 + 1)) == 0  # too far


@pytest.mark.parametrize("equal, expected", [(0, 0), (1, 0.3 * 9 / 9), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy(evaluate, said, equal, expected):
    """The values of VQA's own table for ten people."""
    own = said("photo.jpg", "What is it?")
    data = [{**sample("a", "photo.jpg", "<image>\nWhat is it?", "z"), "answers":
             [{"answer": f"The {own}!"}] * equal + [{"answer": "no"}] * (10 - equal)}]
    assert evaluate(data, "--metric", "vqa", "--json").json["vqa_accuracy"] == pytest.approx(expected)


def test_one_reference_is_equal_or_not(evaluate, said):
    own = said("photo.jpg", "What is it?")
    data = [sample("a", "photo.jpg", "<image>\nWhat is it?", f"a {own.upper()}."),
            sample("b", "photo.jpg", "<image>\nWhat is it?", f"{own} no", type="other")]
    result = evaluate(data, "--metric", "vqa,exact", "--json").json
    assert (result["vqa_accuracy"], result["accuracy"]) == (0.5, 0)
    assert [result["kinds"][kind]["vqa_accuracy"] for kind in ("what", "other")] == [1, 0]


def test_perplexity_is_what_training_measures(evaluate, fastvlm, model, tmp_path):
    data = [sample("one", "photo.jpg", "<image>\nWhat is it?", "Lines."), sample("text", None, "Hello?", "Hello, world."),
            sample("two", ["grey.png", "shapes.png"], "<image>\n<image>\nSame?", "They are not.")]
    result = evaluate(data, "--metric", "perplexity", "--json").json
    trained = fastvlm("train", "--model", model, "--data", tmp_path / "data.json", "--eval-data", tmp_path / "data.json",
                      "--image-folder", IMAGES, "--output", tmp_path / "out", "--lr", "0", "--max-steps", "1", "--tune",
                      "projector", "--quiet", "--json").json
    assert math.log(result["perplexity"]) == pytest.approx(trained["eval_loss"], abs=1e-5)
    kinds = result["kinds"]
    assert sum(row["tokens"] for row in kinds.values()) == result["tokens"] and len(kinds) == 3
    assert sum(row["tokens"] * math.log(row["perplexity"]) for row in kinds.values()) == pytest.approx(
        result["tokens"] * math.log(result["perplexity"]))
    assert "correct" not in result
    turns = evaluate([sample("a", None, "Hello?", "Hello, world.", "And?", "More.")], "--metric", "perplexity", "--json").json
    assert turns["total"] == 2 and turns["kinds"]["hello"]["perplexity"] == pytest.approx(kinds["hello"]["perplexity"])


def test_the_table_has_what_was_asked_for(evaluate):
    data = [sample("a", None, "Hello?", "Hello, world.")]
    head, row, total = evaluate(data, "--metric", "anls,vqa,perplexity", "--quiet").out.splitlines()
    assert head.split() == ["kind", "questions", "anls", "vqa", "perplexity"]
    assert row.split()[:2] == ["hello", "1"] and total.split()[1:] == row.split()[1:]
