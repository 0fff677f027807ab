"""What the tests of the command line share: running the program, a small model, a place for files."""
import contextlib
import json
import os
import pathlib
import pty
import re
import select
import shlex
import signal
import subprocess
import termios
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("FVLM_BUILD", ROOT / "build"))
GOLDEN = ROOT / "tests" / "golden"
WRAPPER = shlex.split(os.environ.get("FVLM_WRAPPER", ""))  # an emulator in front of the program


class Result:
    """What a run of the program left: exit code, output, the lines of its errors."""

    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout.decode("utf-8")
        self.err = process.stderr.decode("utf-8", "replace")

    @property
    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)

    def failed(self, code, *words):
        """Exit code `code`, nothing of a crash, and one line of error with these words in it."""
        errors = [line for line in self.err.splitlines() if line.startswith("fastvlm: ")]
        assert self.code == code, (self.code, self.err)
        assert len(errors) == 1, self.err
        assert "Sanitizer" not in self.err
        for word in words:
            assert word in errors[0], errors[0]
        return self


class Terminal:
    """The program in front of a pseudo terminal."""

    def __init__(self, *arguments, env=None):
        self.process, self.handle = pty.fork()
        if self.process == 0:
            os.environ.update({"TERM": "xterm", **(env or {})})
            command = [*WRAPPER, str(BUILD / "fastvlm"), *map(str, arguments)]
            os.execvp(command[0], command)
        self.seen = ""

    def expect(self, pattern, seconds=30):
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.handle], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.handle, 65536).decode("utf-8", "replace")
            except OSError:
                pytest.fail(f"ended without {pattern!r}: {self.seen!r}")
        self.seen = self.seen[match.end():]

    def send(self, text):
        os.write(self.handle, text.encode())

    def type(self, text, seconds=30):
        """Send to the line editor. It shows its prompt a moment before it takes the terminal over: a Ctrl-D of that
        moment would be eaten by the terminal."""
        end = time.monotonic() + seconds
        while termios.tcgetattr(self.handle)[3] & termios.ICANON:
            assert time.monotonic() < end, f"no line editor after {self.seen!r}"
            time.sleep(0.005)
        self.send(text)

    def end(self, seconds=60):
        """The exit code. What is still printed is read, so that nobody waits for a reader."""
        end = time.monotonic() + seconds
        while (ended := os.waitpid(self.process, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                pytest.fail(f"still running after {seconds} s: {self.seen!r}")
            if select.select([self.handle], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.handle, 65536).decode("utf-8", "replace")
        os.close(self.handle)
        return os.waitstatus_to_exitcode(ended[1])


@pytest.fixture
def fastvlm(tmp_path):
    """Run the program: fastvlm("predict", "--image", path, input=b"", env={...})."""

    def run(*arguments, input=b"", env=None, timeout=600, **options):
        environment = {**os.environ, "FVLM_HOME": str(tmp_path / "home"), **(env or {})}
        command = [*WRAPPER, str(BUILD / "fastvlm"), *map(str, arguments)]
        if isinstance(input, str):
            input = input.encode()
        return Result(subprocess.run(command, input=input, capture_output=True, env=environment, timeout=timeout,
                                     **options))

    return run


def kill_at_many_moments(check, *arguments, count=10):
    """Run the program to its end, then again and again, with a SIGKILL at moments spread over its time. `check` looks
    at what each run left."""
    command = [*WRAPPER, str(BUILD / "fastvlm"), *map(str, arguments)]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.monotonic() - start
    for i in range(count):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * (i + 0.5) / count)
        process.kill()
        process.wait()
        check()


@pytest.fixture
def model():
    return GOLDEN / "llava"


@pytest.fixture
def picture():
    return GOLDEN / "images" / "photo.jpg"
