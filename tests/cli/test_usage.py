"""Help, versions, wrong usage, and an output that cannot be written: every command."""
import subprocess

import pytest

from conftest import BUILD, WRAPPER

COMMANDS = ["predict", "chat", "models", "pull", "eval", "bench", "trace", "tokenize", "template"]


def test_help_lists_every_command(fastvlm):
    result = fastvlm("--help")
    assert result.code == 0 and result.err == ""
    for command in COMMANDS:
        assert f"\n  {command} " in result.out
    assert "Example:" in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_has_options_and_an_example(fastvlm, command):
    result = fastvlm(command, "--help")
    assert result.code == 0 and result.err == ""
    assert f"Usage: fastvlm {command}" in result.out
    assert "--help" in result.out
    assert f"Example:\n  fastvlm {command}" in result.out or f"| fastvlm {command}" in result.out


def test_version(fastvlm):
    result = fastvlm("--version")
    assert result.code == 0
    assert result.out.startswith("fastvlm ") and result.out.count(".") == 2


def test_no_command(fastvlm):
    fastvlm().failed(2, "--help")


def test_unknown_command(fastvlm):
    fastvlm("predikt").failed(2, "'predikt'", "--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option(fastvlm, command):
    fastvlm(command, "--no-such-option").failed(2, "--no-such-option", f"fastvlm {command} --help")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("pull", "tokenize")])
def test_stray_argument(fastvlm, command):
    fastvlm(command, "stray").failed(2, "'stray'")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["models"], ["models", "--json"],
                                       ["template", "--list"], ["template", "--prompt", "x"]])
def test_full_disk_behind_standard_output(fastvlm, arguments):
    with open("/dev/full", "wb") as full:
        run = subprocess.run([*WRAPPER, str(BUILD / "fastvlm"), *arguments], stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 1
    assert b"cannot write to standard output" in run.stderr


def test_closed_pipe_behind_standard_output(model):
    lines = b'{"text": "hello"}\n' * 20000
    run = subprocess.Popen([*WRAPPER, str(BUILD / "fastvlm"), "tokenize", "--jsonl", "--model", str(model)], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    try:
        run.stdin.write(lines)
        run.stdin.close()
    except BrokenPipeError:
        pass
    error = run.stderr.read()
    assert run.wait(timeout=600) == 1
    assert b"cannot write to standard output" in error
