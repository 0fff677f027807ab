"""What the golden tests share: a safetensors reader, a set of expected values, the program, and the comparison.

A set is a folder with expected.json, expected.safetensors and a folder for each layout (README.md). FVLM_GOLDEN_SET
names it, FVLM_BUILD the build folder, FVLM_SHARED the fixtures' parent; what FVLM_WRAPPER holds (an emulator, say) is
put before the program.
"""

import json
import lzma
import os
import pathlib
import shlex
import shutil
import struct
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("FVLM_BUILD", ROOT / "build"))
SHARED = pathlib.Path(os.environ.get("FVLM_SHARED", ROOT.parent / "shared"))
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "<u1"}
VISION_BAR = 1e-5  # relative L2 of every stage of the tower, and of what the projector makes of it
LOGITS_BAR = 1e-3
SECONDS = 1200  # for one run of the program: enough for plain C under an emulator or a sanitizer
KEPT = 4000  # characters of its stderr that a failure shows


def read_safetensors(path):
    """Name -> array. A file that ends in .xz is unpacked first."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[8 + length + begin : 8 + length + end], DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def run(*arguments, stdin=None, program="fastvlm"):
    """Run a program of the build folder and give its stdout; anything but exit status 0 is a failure."""
    command = [*shlex.split(os.environ.get("FVLM_WRAPPER", "")), str(BUILD / program), *map(str, arguments)]
    result = subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS)
    errors = result.stderr.decode("utf-8", "replace")[-KEPT:]
    assert result.returncode == 0, f"{shlex.join(command)}: exit status {result.returncode}\n{errors}"
    return result.stdout


def trace(model, images, question, out, *options):
    """Every stage's tensor of one question."""
    paths = [argument for image in images for argument in ("--image", image)]
    run("trace", "--model", model, *paths, "--prompt", question, "--out", out, *options)
    return read_safetensors(out)


def predict(model, images, question, max_tokens, *options):
    """The JSON object of a greedy answer."""
    paths = [argument for image in images for argument in ("--image", image)]
    limits = ("--temperature", 0, "--max-tokens", max_tokens, "--json")
    return json.loads(run("predict", "--model", model, *paths, "--prompt", question, *limits, *options))


def feature_errors(got, expected):
    """Relative L2 of all features [tokens, width], and the least cosine of a token's."""
    got, expected = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (got, expected))
    assert got.shape == expected.shape and np.isfinite(got).all()
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    return np.linalg.norm(got - expected) / np.linalg.norm(expected), ((got * expected).sum(1) / norms).min()


def compare(what, got, expected, relative_l2=None, max_abs=None):
    """Print how far `got` is from `expected`, and fail when it is not finite or further than the bar given."""
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    not_finite = int((~np.isfinite(got)).sum())
    difference = got.astype(np.float64) - expected
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    relative = float(np.linalg.norm(difference)) / norm if norm else float(np.linalg.norm(difference))
    largest = float(np.abs(difference).max())
    print(f"{what:<44} max-abs {largest:9.2e}  rel-l2 {relative:9.2e}  non-finite {not_finite}")
    assert not_finite == 0, f"{what}: {not_finite} values are not finite"
    if relative_l2 is not None:
        assert relative <= relative_l2, f"{what}: relative L2 {relative:.3e} is over {relative_l2:.0e}"
    if max_abs is not None:
        assert largest <= max_abs, f"{what}: max-abs {largest:.3e} is over {max_abs:.0e}"


def compare_logits(what, got, expected, positions=None):
    """`expected` may hold the last positions only; `positions` is then how many there are."""
    if positions is not None:
        assert got.shape[0] == positions, f"{what}: {got.shape[0]} positions, expected {positions}"
    compare(what, got[-expected.shape[0] :], expected, max_abs=LOGITS_BAR)


def check_answer(what, answer, expected, longest):
    count = len(expected["greedy"])
    wrong = next((i for i, (a, b) in enumerate(zip(answer["tokens"], expected["greedy"])) if a != b), None)
    if wrong is not None:
        pytest.fail(
            f"{what}: token {wrong} is {answer['tokens'][wrong]}, expected {expected['greedy'][wrong]}, "
            f"which led by {expected['margins'][wrong]}"
        )
    assert len(answer["tokens"]) == count
    assert answer["finish_reason"] == ("length" if count == longest else "stop")
    assert answer["text"] == expected["greedy_text"]
    print(f"{what:<44} {count} tokens equal, smallest margin {min(expected['margins'])}")


class GoldenSet:
    def __init__(self, folder):
        self.folder = folder
        self.expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        self.tensors = read_safetensors(folder / "expected.safetensors")
        self.apple = read_safetensors(folder / "expected_apple.safetensors")
        own = folder / "images"
        self.images = own if own.is_dir() else folder.parent / "images"
        self.layouts = sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file())
        self.cases = self.expected["cases"]
        self.variants = self.expected.get("variants", [])

    def pixels(self):
        """`pixels.MODE.IMAGE` -> u8 [S, S, 3], or [tiles, S, S, 3]."""
        packed = self.folder / "pixels.safetensors.xz"
        return read_safetensors(packed if packed.exists() else self.folder / "pixels.safetensors")

    def longest(self):
        """Tokens that the greedy answers were limited to."""
        return max(len(answer["greedy"]) for answer in [*self.cases, *self.variants])

    def paths(self, names):
        return [self.images / name for name in names]

    def staged(self):
        """The picture whose stages are among the expected values."""
        name = next(name for name in self.tensors if name.startswith("vision.") and name.endswith(".stem"))
        return name[len("vision.") : -len(".stem")]

    def reconfigured(self, layout, settings, folder):
        """A copy of a layout in `folder` whose config.json has `settings`; the layout itself when there are none."""
        if not settings:
            return self.folder / layout
        shutil.copytree(
            self.folder / layout, folder, copy_function=shutil.copyfile
        )  # not the modes: they may be read-only
        config = folder / "config.json"
        changed = {**json.loads(config.read_text(encoding="utf-8")), **settings}
        config.write_text(json.dumps(changed), encoding="utf-8")
        return folder


def chosen_set():
    """The set that FVLM_GOLDEN_SET names; this folder without it."""
    return GoldenSet(pathlib.Path(os.environ.get("FVLM_GOLDEN_SET", pathlib.Path(__file__).parent)))
