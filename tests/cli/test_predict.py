"""predict, trace and bench on the golden model: what is printed, and how options are understood."""
import json
import os
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import BUILD, GOLDEN, WRAPPER, Terminal

IMAGES = GOLDEN / "images"


@pytest.fixture(scope="module")
def cases():
    return json.loads((GOLDEN / "expected.json").read_text())["cases"]


@pytest.fixture
def predict(fastvlm, model, picture):
    def run(*arguments, **options):
        return fastvlm("predict", "--model", model, "--image", picture, "--prompt", "What is this?", *arguments, **options)

    return run


def image_options(case):
    return [word for name in case["images"] for word in ("--image", IMAGES / name)]


def test_json_has_what_it_promises(fastvlm, model, cases):
    case = cases[0]
    answer = fastvlm("predict", "--model", model, *image_options(case), "--prompt", case["question"], "--temperature", 0,
                     "--max-tokens", 4, "--json").json
    assert set(answer) == {"text", "tokens", "finish_reason", "prompt_tokens", "image_tokens", "reused_tokens",
                           "encode_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "model", "precision"}
    assert answer["tokens"] == case["greedy"][:4]
    assert answer["finish_reason"] == "length"
    assert answer["model"] == str(model)
    placeholders = case["input_ids"].count(-200)
    assert answer["prompt_tokens"] == len(case["input_ids"]) - placeholders + answer["image_tokens"]
    assert answer["ttft_ms"] >= answer["encode_ms"] + answer["prefill_ms"] > 0
    assert answer["decode_tokens_per_s"] > 0


def test_spellings_of_the_published_tool(fastvlm, model, cases):
    case = cases[0]
    published = fastvlm("predict", "--model-path", model, "--image-file", IMAGES / case["images"][0], "--prompt",
                        case["question"], "--conv-mode", "qwen_2", "--temperature", "0", "--top_p", "0.9", "--num_beams", "1",
                        "--max_new_tokens", "8", "--json").json
    assert published["tokens"] == case["greedy"][:8]


def test_stream_is_the_answer_and_a_newline(predict):
    options = ["--temperature", "0", "--max-tokens", "20"]
    answer = predict(*options, "--json").json
    streamed = predict(*options)
    assert streamed.code == 0 and streamed.err == ""
    assert streamed.out == answer["text"] + "\n"


def test_two_images_and_images_placed_in_the_prompt(fastvlm, model, cases):
    case = next(case for case in cases if len(case["images"]) == 2)
    common = ["predict", "--model", model, *image_options(case), "--temperature", 0, "--max-tokens", 8, "--json"]
    assert fastvlm(*common, "--prompt", case["question"]).json["tokens"] == case["greedy"][:8]
    placed = "<image>\n<image>\n" + case["question"]
    assert fastvlm(*common, "--prompt", placed).json["tokens"] == case["greedy"][:8]


def test_image_from_standard_input(fastvlm, model, picture):
    common = ["predict", "--model", model, "--prompt", "x", "--temperature", "0", "--max-tokens", "5", "--json", "--image"]
    assert fastvlm(*common, "-", input=picture.read_bytes()).json["tokens"] == fastvlm(*common, picture).json["tokens"]


def test_beams(fastvlm, model, cases):
    case = cases[0]
    common = ["predict", "--model", model, *image_options(case), "--prompt", case["question"], "--beams", "4",
              "--max-tokens", "12"]
    answer = fastvlm(*common, "--json").json
    assert [beam["tokens"] for beam in answer["beams"]] == case["beam4"]
    assert [beam["score"] for beam in answer["beams"]] == pytest.approx(case["beam4_scores"], abs=1e-3)
    assert answer["tokens"] == answer["beams"][0]["tokens"] and answer["text"] == answer["beams"][0]["text"]
    assert fastvlm(*common).out == answer["text"] + "\n"


def test_seed_decides(predict):
    options = ["--temperature", "1.5", "--max-tokens", "12", "--json"]
    answers = [predict(*options, "--seed", seed).json["tokens"] for seed in (1, 1, 2, 3)]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2] or answers[0] != answers[3]


def test_stop_text_ends_the_answer(predict):
    options = ["--temperature", "0", "--max-tokens", "30"]
    whole = predict(*options, "--json").json["text"]
    stop = whole[5:8]
    at = whole.index(stop)
    stopped = predict(*options, "--stop", "never said", "--stop", stop, "--json").json
    assert stopped["text"] == whole[:at] and stopped["finish_reason"] == "stop"
    assert predict(*options, "--stop", stop).out == whole[:at] + "\n"


def test_stop_texts_of_a_template(predict, tmp_path):
    template = tmp_path / "mine.json"
    parts = {"user_prefix": "Q: ", "user_suffix": "\n", "assistant_open": "A:"}
    template.write_text(json.dumps(parts))
    options = ["--temperature", "0", "--max-tokens", "30", "--template", template]
    whole = predict(*options, "--json").json["text"]
    stop = whole[6:9]
    template.write_text(json.dumps({**parts, "stop": [stop]}))
    assert predict(*options, "--json").json["text"] == whole[:whole.index(stop)]


def test_system_and_template_change_the_prompt(predict, tmp_path):
    plain = predict("--json", "--max-tokens", "1").json["prompt_tokens"]
    assert predict("--json", "--max-tokens", "1", "--system", "Be very brief, please.").json["prompt_tokens"] != plain
    assert predict("--json", "--max-tokens", "1", "--template", "plain").json["prompt_tokens"] < plain


def test_threads_do_not_change_the_answer(predict):
    options = ["--temperature", "0", "--max-tokens", "16", "--json"]
    assert predict(*options, "--threads", "1").json["tokens"] == predict(*options, "--threads", "3").json["tokens"]


def test_stats_go_to_standard_error(predict):
    result = predict("--stats", "--max-tokens", "3")
    assert result.code == 0 and "time to first token" in result.err and "time to first" not in result.out


@pytest.mark.parametrize("arguments, words", [
    (["--prompt", "x"], ["--image"]),
    (["--image", "PICTURE"], ["--prompt"]),
    (["--image", "-", "--image", "-", "--prompt", "x"], ["standard input", "2 times"]),
    (["--image", "PICTURE", "--prompt", "<image> or <image>"], ["2 <image>", "1 picture"]),
    (["--image", "PICTURE", "--image", "PICTURE", "--prompt", "<image>"], ["1 <image>", "2 pictures"]),
    (["--image", "PICTURE", "--prompt", "x", "--temperature", "-1"], ["--temperature"]),
    (["--image", "PICTURE", "--prompt", "x", "--temperature", "warm"], ["--temperature"]),
    (["--image", "PICTURE", "--prompt", "x", "--top-p", "1.5"], ["--top-p"]),
    (["--image", "PICTURE", "--prompt", "x", "--top-k", "-3"], ["--top-k"]),
    (["--image", "PICTURE", "--prompt", "x", "--beams", "0"], ["--beams"]),
    (["--image", "PICTURE", "--prompt", "x", "--max-tokens", "0"], ["--max-tokens"]),
    (["--image", "PICTURE", "--prompt", "x", "--max-tokens", "99999999999"], ["--max-tokens"]),
    (["--image", "PICTURE", "--prompt", "x", "--seed", "-1"], ["--seed"]),
    (["--image", "PICTURE", "--prompt", "x", "--stop", ""], ["--stop"]),
    (["--image", "PICTURE", "--prompt", "x", "--beams", "2", "--temperature", "0.5"], ["beam", "temperature"]),
    (["--image", "PICTURE", "--prompt", "x", "--threads", "-2"], ["--threads"]),
    (["--image", "PICTURE", "--prompt", "x", "--precision", "fp13"], ["fp13", "bf16"]),
    (["--image", "PICTURE", "--prompt", "x", "--kv-type", "q5"], ["--kv-type", "q5", "int8"]),
    (["--image", "PICTURE", "--prompt", "x", "--resolution", "100"], ["100", "64"]),
    (["--image", "PICTURE", "--prompt", "x", "--ctx", "-5"], ["--ctx"]),
    (["--image", "PICTURE", "--prompt", "x", "--cpu-mask", "mmx"], ["mmx"]),
    (["--image", "PICTURE", "--prompt", "x", "--template", "no_such"], ["no_such"]),
    (["--image"], ["--image"]),
])
def test_wrong_usage(fastvlm, model, picture, arguments, words):
    arguments = [picture if argument == "PICTURE" else argument for argument in arguments]
    fastvlm("predict", "--model", model, *arguments).failed(2, *words)


def test_full_disk_behind_the_answer(model, picture):
    command = [str(BUILD / "fastvlm"), "predict", "--model", str(model), "--image", str(picture), "--prompt", "x"]
    for extra in ([], ["--json"], ["--beams", "2"]):
        with open("/dev/full", "wb") as full:
            run = subprocess.run([*WRAPPER, *command, *extra], stdout=full, stderr=subprocess.PIPE)
        assert run.returncode == 1 and run.stderr.count(b"\n") == 1
        assert b"cannot write to standard output" in run.stderr


def test_reader_that_leaves_ends_the_answer(model, picture):
    command = [str(BUILD / "fastvlm"), "predict", "--model", str(model), "--image", str(picture), "--prompt", "x",
               "--temperature", "1.5", "--max-tokens", "3000"]
    run = subprocess.Popen([*WRAPPER, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    error = run.stderr.read()
    run.stderr.close()
    assert run.wait(timeout=600) == 1
    assert b"cannot write to standard output: Broken pipe" in error


def test_interrupt_ends_the_answer_cleanly(model, picture):
    command = [str(BUILD / "fastvlm"), "predict", "--model", str(model), "--image", str(picture), "--prompt", "x",
               "--temperature", "5", "--ctx", "4096", "--max-tokens", "3900"]
    run = subprocess.Popen([*WRAPPER, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = os.read(run.stdout.fileno(), 1)
    run.send_signal(signal.SIGINT)
    rest, error = run.communicate(timeout=600)
    assert run.returncode == -signal.SIGINT
    assert (first + rest).endswith(b"\n") and error == b""
    (first + rest).decode("utf-8")


def tensor_names(path):
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        return {name: entry["shape"] for name, entry in json.loads(file.read(size)).items() if name != "__metadata__"}


def test_trace(fastvlm, model, picture, tmp_path):
    out = tmp_path / "trace.safetensors"
    result = fastvlm("trace", "--model", model, "--image", picture, "--prompt", "What is this?", "--out", out)
    assert result.code == 0 and result.out == "" and result.err == ""
    shapes = tensor_names(out)
    assert {"pixels", "vision.stem", "vision.network.0", "features", "projected", "logits"} <= set(shapes)
    prompt = fastvlm("predict", "--model", model, "--image", picture, "--prompt", "What is this?", "--max-tokens", "1",
                     "--json").json
    assert shapes["logits"][0] == prompt["prompt_tokens"]


def test_trace_usage_and_unwritable_file(fastvlm, model, picture, tmp_path):
    fastvlm("trace", "--model", model, "--image", picture, "--prompt", "x").failed(2, "--out")
    fastvlm("trace", "--model", model, "--image", picture, "--out", "x").failed(2, "--prompt")
    out = tmp_path / "missing" / "trace.safetensors"
    fastvlm("trace", "--model", model, "--image", picture, "--prompt", "x", "--out", out).failed(1, str(out))


def test_bench(fastvlm, model, picture):
    answer = fastvlm("bench", "--model", model, "--runs", "2", "--tokens", "5", "--json").json
    assert answer["runs"] == 2 and answer["tokens"] == 5
    for key in ("load_ms", "picture_ms", "encode_ms", "prefill_ms", "prefill_tokens_per_s", "ttft_ms", "decode_tokens_per_s",
                "peak_memory_bytes", "weight_bytes", "prompt_tokens", "image_tokens"):
        assert answer[key] > 0, key
    table = fastvlm("bench", "--model", model, "--runs", "1", "--tokens", "5", "--image", picture)
    assert table.code == 0
    for row in ("encode (ms)", "prefill (ms)", "first token (ms)", "decode (tokens/s)", "peak memory (MB)"):
        assert row in table.out
    fastvlm("bench", "--model", model, "--runs", "0").failed(2, "--runs")


@pytest.mark.parametrize("mask", ["none", "all"])
def test_roofline(fastvlm, mask):
    answer = fastvlm("bench", "--roofline", "--threads", "2", "--cpu-mask", mask, "--json").json
    assert answer["threads"] == 2
    for side in ("one_thread", "all_threads"):
        # Nothing that runs these tests is outside of: 10 MB/s to 10 TB/s, 10 MFLOP/s to 100 TFLOP/s.
        assert 0.01 < answer[side]["read_gb_per_s"] < 1e4
        assert 0.01 < answer[side]["fp32_gflops"] < 1e5
        dots = [answer[side]["bf16_gflops"], answer[side]["int8_gops"]]
        assert all(rate == 0 if mask == "none" else 0 <= rate < 1e6 for rate in dots)
    table = fastvlm("bench", "--roofline", "--threads", "1", "--cpu-mask", mask)
    assert table.code == 0 and "memory read (GB/s)" in table.out
    fastvlm("bench", "--roofline", "--threads", "-1").failed(2, "--threads")


def test_trace_of_a_text_has_its_logits(fastvlm, model, tmp_path):
    out = tmp_path / "t.safetensors"
    assert fastvlm("trace", "--model", model, "--prompt", "Hello", "--out", out).code == 0
    prompt = fastvlm("template", "--prompt", "Hello").out[:-1]
    count = len(fastvlm("tokenize", "--model", model, "--text", prompt, "--json").json["ids"])
    tensors = fastvlm("inspect", out, "--json").json["tensors"]
    assert [(tensor["name"], tensor["shape"]) for tensor in tensors] == [("logits", [count, 608])]


BARE = {"TERM_PROGRAM": "", "TMUX": ""}
SHOW = ("predict", "--show", "auto", "--prompt", "x", "--max-tokens", "1", "--image")


@pytest.mark.parametrize("reply, picture_begins", [
    ("\x1b_Gi=31;OK\x1b\\\x1b[?62;4c", r"\x1b_Ga=T,f=100"),
    ("\x1b[?64;1;4;22c", r"\x1bPq"),
    ("\x1b[?1;2c", r"\x1b\[38;2;"),
    ("", r"\x1b\[38;2;"),  # a terminal that does not answer
])
def test_show_asks_the_terminal(reply, picture_begins, picture):
    terminal = Terminal(*SHOW, picture, env={"TERM": "xterm", **BARE})
    terminal.send(reply)  # ahead of the question, for the program does not wait long
    terminal.expect(r"\x1b_Gi=31,[^\x1b]*\x1b\\\x1b\[c")
    terminal.expect(picture_begins)
    assert terminal.end() == 0


def test_an_interrupt_while_asking_leaves_the_terminal_as_it_was(picture):
    terminal = Terminal(*SHOW, picture, env={"TERM": "xterm", **BARE})
    before = termios.tcgetattr(terminal.handle)
    terminal.expect(r"\x1b\[c")
    os.kill(terminal.process, signal.SIGINT)
    while os.waitid(os.P_PID, terminal.process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        time.sleep(0.01)
    assert termios.tcgetattr(terminal.handle) == before
    assert terminal.end() == -signal.SIGINT


@pytest.mark.parametrize("variables, picture_begins", [
    ({"TERM": "xterm-kitty"}, r"\x1b_Ga=T"), ({"TERM_PROGRAM": "iTerm.app"}, r"\x1b\]1337;File=inline=1"),
    ({"TERM_PROGRAM": "WezTerm"}, r"\x1b\]1337;File=inline=1")])
def test_show_knows_some_terminals(variables, picture_begins, picture):
    terminal = Terminal(*SHOW, picture, env={**BARE, **variables})
    terminal.expect(picture_begins)
    assert "a=q" not in terminal.seen and terminal.end() == 0


def test_show_where_there_is_nothing_to_show_on(fastvlm, picture):
    shown = fastvlm(*SHOW, picture)
    assert shown.code == 0 and "\x1b" not in shown.out
    named = fastvlm("predict", "--show", "blocks", "--prompt", "x", "--max-tokens", "1", "--image", picture)
    assert named.code == 0 and named.out.startswith("\x1b[38;2;")
    fastvlm("predict", "--show", "tv", "--prompt", "x", "--image", picture).failed(2, "'tv'", "sixel")
    fastvlm(*SHOW, picture, "--json").failed(2, "--show")


def test_chat_shows_pictures(fastvlm, picture):
    shown = fastvlm("chat", "--show", "kitty", "--max-tokens", "1", input=f"/image {picture}\nWhat?\n")
    assert shown.code == 0 and shown.out.startswith("\x1b_Ga=T")
