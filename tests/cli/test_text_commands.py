"""tokenize and template: plain, as JSON, and the line protocols."""
import json
import subprocess

from conftest import BUILD, GOLDEN, WRAPPER


def expected():
    return json.loads((GOLDEN / "expected.json").read_text())


def test_tokenize_gives_the_golden_ids(fastvlm, model):
    case = expected()["cases"][0]
    pieces = case["prompt"].split("<image>")
    ids = [fastvlm("tokenize", "--model", model, piece, "--json").json["ids"] for piece in pieces]
    joined = ids[0]
    for piece in ids[1:]:
        joined = joined + [-200] + piece
    assert joined == case["input_ids"]


def test_tokenize_plain_json_and_stdin_agree(fastvlm, model):
    text = "Grüße, <|im_end|> 1234"
    plain = fastvlm("tokenize", "--model", model, text)
    answer = fastvlm("tokenize", "--model-path", model, "--json", input=text).json
    assert [int(token) for token in plain.out.split()] == answer["ids"]
    assert answer["decoded"] == text
    assert answer["decoded_skip_special"] == text.replace("<|im_end|>", "")


def test_tokenize_lines(fastvlm, model):
    texts = ["", "a", "two words", "nul \0 inside", "e\u0301 \U0001f600", "x" * 100000]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    result = fastvlm("tokenize", "--jsonl", "--model", model, input="\n" + lines + "  \n")
    assert result.code == 0, result.err
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [answer["decoded"] for answer in answers] == [*texts[:4], "\u00e9 \U0001f600", texts[5]]
    assert answers[0]["ids"] == []


def test_tokenize_answers_each_line_at_once(model):
    run = subprocess.Popen([*WRAPPER, str(BUILD / "fastvlm"), "tokenize", "--jsonl", "--model", str(model)], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
    for text in ("first", "second"):
        run.stdin.write(json.dumps({"text": text}).encode() + b"\n")
        run.stdin.flush()
        assert json.loads(run.stdout.readline())["decoded"] == text
    run.stdin.close()
    assert run.wait(timeout=600) == 0
    run.stdout.close()


def test_bad_lines_keep_their_place(fastvlm, model):
    lines = ['{"text": "good"}', "not json", '["text"]', '{"text": 7}', '{"text": "\\ud800"}',
             '{"text": "a", "text": "b"}', '{"text": "good again"}']
    result = fastvlm("tokenize", "--jsonl", "--model", model, input="\n".join(lines))
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert ["error" in answer for answer in answers] == [False, True, True, True, True, True, False]
    assert "line 2" in result.err


def test_tokenize_usage(fastvlm, model, tmp_path):
    fastvlm("tokenize", "two", "texts", "--model", model).failed(2, "one text")
    fastvlm("tokenize", "--jsonl", "text", "--model", model).failed(2, "--jsonl")
    fastvlm("tokenize", "text", "--model", tmp_path / "none").failed(1, str(tmp_path / "none"))
    fastvlm("tokenize", "text", "--model", tmp_path).failed(1, str(tmp_path))


def test_template(fastvlm):
    case = expected()["cases"][0]
    assert fastvlm("template", "--prompt", f"<image>\n{case['question']}").out == case["prompt"] + "\n"
    answer = fastvlm("template", "--prompt", "hi", "--system", "Be brief.", "--conv-mode", "qwen_2", "--json").json
    assert answer["prompt"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>")


def test_template_names(fastvlm):
    names = fastvlm("template", "--list").out.split()
    assert "qwen_2" in names and "plain" in names
    assert fastvlm("template", "--list", "--json").json["templates"] == names
    for name in names:
        assert "hello" in fastvlm("template", "--template", name, "--prompt", "hello").out


def test_template_lines(fastvlm):
    lines = [{"template": "qwen_2", "turns": [["u", "one"], ["a", "two"], ["u", "three"], ["a", None]]},
             {"turns": [["human", "one"], ["gpt", None]], "system": "S"},
             {"template": "nonsense", "turns": [["u", "x"], ["a", None]]},
             {"template": "qwen_2", "turns": []},
             {"template": "qwen_2", "turns": [["nobody", "x"]]},
             {"template": "qwen_2", "turns": [["u", 3]]}]
    result = fastvlm("template", "--jsonl", input="\n".join(map(json.dumps, lines)))
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert answers[0]["prompt"].endswith("two<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n")
    assert answers[1]["prompt"].startswith("<|im_start|>system\nS<|im_end|>")
    assert "nonsense" in answers[2]["error"]
    assert all("error" in answer for answer in answers[2:])


def test_unknown_template(fastvlm):
    result = fastvlm("template", "--template", "no_such", "--prompt", "x")
    assert result.code in (1, 2)
    result.failed(result.code, "no_such")
