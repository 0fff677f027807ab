"""What the tests of the command line share: running the program, a small model, a place for files."""
import json
import os
import pathlib
import shlex
import subprocess

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


@pytest.fixture
def fastvlm(tmp_path):
    """Run the program: fastvlm("predict", "--image", path, input=b"", env={...})."""

    def run(*arguments, input=b"", env=None, timeout=120, **options):
        environment = {**os.environ, "FVLM_HOME": str(tmp_path / "home"), **(env or {})}
        command = [*WRAPPER, str(BUILD / "fastvlm"), *map(str, arguments)]
        if isinstance(input, str):
            input = input.encode()
        return Result(subprocess.run(command, input=input, capture_output=True, env=environment, timeout=timeout,
                                     **options))

    return run


@pytest.fixture
def model():
    return GOLDEN / "llava"


@pytest.fixture
def picture():
    return GOLDEN / "images" / "photo.jpg"
