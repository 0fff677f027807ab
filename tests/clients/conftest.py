"""What the client tests share: golden sets, exports, a full-size checkpoint where there is one."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))

import golden_set  # noqa: E402
from golden_set import BUILD, SHARED, run  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here comes from anywhere else


@pytest.fixture(scope="session")
def golden():
    """The project's own small model and its expected values."""
    return golden_set.chosen_set()


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """Export a model once: export("mlx", model, "--bits", 4) -> the folder."""
    made = {}

    def export_once(layout, model, *options):
        key = (layout, str(model), *options)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(layout) / "export"
            run("export", layout, "--quiet", "--model", model, "--output", made[key], *options)
        return made[key]

    return export_once


@pytest.fixture(scope="session")
def full_model():
    """The full-size 0.5B checkpoint with made-up weights, written to the build folder once."""
    maker = SHARED / "tools" / "make_checkpoint.py"
    folder = pathlib.Path(os.environ.get("FVLM_FULL_MODEL", BUILD / "full_0.5b"))
    if not (folder / "tokenizer.json").exists():  # make_checkpoint writes it last
        if not maker.exists():
            pytest.skip(f"there is no {maker} and no {folder}: the full-size export was not tested")
        subprocess.run(["/usr/bin/python3", maker, "0.5b", folder], check=True)
    return folder


def full_expected():
    """Expected values of the published code for that checkpoint."""
    folder = SHARED / "fixtures" / "full_0.5b"
    if not folder.exists():
        pytest.skip(f"there is no {folder}: the full-size export was not tested")
    expected = json.loads((folder / "expected.json").read_text())
    return expected, golden_set.read_safetensors(folder / "expected.safetensors")
