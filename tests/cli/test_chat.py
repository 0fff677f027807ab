"""chat: turns, pictures, commands; by a pipe, and in front of a terminal."""
import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, GOLDEN, WRAPPER, Terminal

GREEDY = ["--temperature", "0", "--max-tokens", "6"]


@pytest.fixture
def chat(fastvlm, model):
    def run(lines, *arguments, **options):
        return fastvlm("chat", "--model", model, *GREEDY, *arguments, input="".join(line + "\n" for line in lines), **options)

    return run


def answers(result):
    return [json.loads(line) for line in result.out.splitlines()]


def test_first_answer_is_that_of_predict(chat, fastvlm, model, picture):
    predicted = fastvlm("predict", "--model", model, "--image", picture, "--prompt", "What is this?", *GREEDY, "--json").json
    for result in (chat([f"/image {picture}", "What is this?"], "--json"),
                   chat(["What is this?"], "--image", picture, "--json"),
                   chat([], "--image", picture, "--prompt", "What is this?", "--json")):
        assert result.code == 0, result.err
        assert [answer["tokens"] for answer in answers(result)] == [predicted["tokens"]]


def test_later_turns_reuse_what_is_known(chat, picture):
    first, second, third = answers(chat([f"/image {picture}", "What is this?", "And the colour?", "Why?"], "--json"))
    assert first["reused_tokens"] == 0 and first["encode_ms"] > 0
    for before, after in ((first, second), (second, third)):
        assert after["prompt_tokens"] > before["prompt_tokens"]
        assert after["reused_tokens"] >= before["prompt_tokens"] - 1
        assert after["image_tokens"] == before["image_tokens"]


def test_a_turn_means_the_same_as_the_whole_conversation(chat, fastvlm, model, picture):
    """The cached conversation gives the tokens that the same prompt gives from nothing."""
    first, second = answers(chat([f"/image {picture}", "What is this?", "Why?"], "--json"))
    whole = f"<image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n{first['text']}<|im_end|>\n<|im_start|>user\nWhy?"
    again = fastvlm("predict", "--model", model, "--image", picture, "--prompt", whole, *GREEDY, "--json").json
    assert second["tokens"] == again["tokens"]
    assert second["prompt_tokens"] == again["prompt_tokens"]


def test_second_picture(chat, picture):
    other = GOLDEN / "images" / "shapes.png"
    first, second = answers(chat([f"/image {picture}", "One?", f'/image "{other}"', "Two?"], "--json"))
    assert second["image_tokens"] == 2 * first["image_tokens"]


@pytest.fixture
def endless(tmp_path, model):
    """Arguments of a chat whose greedy answers do not end by themselves for a long while."""
    folder = tmp_path / "endless"
    shutil.copytree(model, folder)
    for name, changes in (("config.json", {"eos_token_id": 607, "max_position_embeddings": 16384}),
                          ("generation_config.json", {"eos_token_id": 607}), ("tokenizer_config.json", {"eos_token": None})):
        path = folder / name
        path.chmod(0o644)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return ["chat", "--model", folder, "--temperature", "0", "--ctx", "16384", "--max-tokens", "16000"]


def test_streamed_lines(chat, picture):
    lines = ["What is this?", "Why?"]
    texts = [answer["text"] for answer in answers(chat(lines, "--image", picture, "--json"))]
    streamed = chat(lines, "--image", picture)
    assert streamed.code == 0
    assert streamed.out == "".join(text + "\n" for text in texts)


def test_text_alone(chat):
    answer, = answers(chat(["Say hello."], "--json"))
    assert answer["image_tokens"] == 0 and answer["text"]


def test_history_clear_and_quit(chat, picture):
    result = chat(["One?", "/history", "/clear", "/history", "Two?", "/quit", "Never asked"])
    assert result.code == 0
    assert "user: One?\nassistant: " in result.out
    assert result.out.count("user: One?") == 1
    assert "Never" not in result.out
    one, two = answers(chat(["One?", "/clear", "One?"], "--json"))
    assert one["tokens"] == two["tokens"]


def test_faults_do_not_end_the_conversation(chat, tmp_path, picture):
    missing = tmp_path / "missing.png"
    result = chat([f"/image {missing}", "/nonsense", f"/image {picture}", "<image> <image>", "Hello?"], "--json")
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("fastvlm: ")]
    assert len(errors) == 3
    assert str(missing) in errors[0] and "/nonsense" in errors[1] and "2 <image>" in errors[2]
    answer, = answers(result)
    assert answer["image_tokens"] == 0


def test_conversation_beyond_the_context(chat):
    long = "word " * 300
    result = chat(["One?", long, "Two?"], "--json", "--ctx", "128")
    assert result.code == 1
    assert "/clear" in result.err and result.err.count("fastvlm: ") == 1
    first, second = answers(result)
    assert second["prompt_tokens"] > first["prompt_tokens"]


def test_terminal(model, picture):
    terminal = Terminal("chat", "--model", model, *GREEDY)
    terminal.expect("> ")
    terminal.type(f"/image {picture}\r")
    terminal.expect(r"goes with the next question")
    terminal.expect("> ")
    terminal.type("What is thos\x7f\x7fis?\r")  # edited before it is sent
    terminal.expect("> ")
    terminal.type("/history\r")
    terminal.expect("user: <image>\r\nWhat is this\\?\r\nassistant: ")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_interrupt_stops_the_answer_not_the_chat(endless):
    terminal = Terminal(*endless)
    terminal.expect("> ")
    terminal.type("Talk.\r")
    terminal.expect(r"\n.{40}")
    terminal.send("\x03")
    terminal.expect("\n> ")
    terminal.type("/quit\r")
    assert terminal.end() == 0


def test_interrupt_in_a_pipe(endless):
    run = subprocess.Popen([*WRAPPER, str(BUILD / "fastvlm"), *map(str, endless)], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
    run.stdin.write(b"Talk.\n")
    run.stdin.flush()
    os.read(run.stdout.fileno(), 1)
    run.send_signal(signal.SIGINT)
    rest, _ = run.communicate(b"/history\n", timeout=60)
    assert run.returncode == 0
    assert b"\nuser: Talk.\nassistant: " in rest
