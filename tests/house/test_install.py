"""What `make install` puts somewhere is enough to build and run a program against."""
import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

BUILD = pathlib.Path(os.environ["FVLM_BUILD"])

PROGRAM = r"""
#include <fastvlm/fastvlm.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    fvlm_error error;
    fvlm_engine *engine;
    const unsigned char pixels[3] = {1, 2, 3};
    fvlm_image *image;
    if (fvlm_engine_open(&(fvlm_engine_options){.model = "/nowhere"}, &engine, &error) == FVLM_OK)
        return 1;
    if (fvlm_image_from_rgb(pixels, 1, 1, &image, &error) || fvlm_image_width(image) != 1)
        return 2;
    fvlm_image_free(&image);
    printf("%s: %s\n", fvlm_version(), error.message);
    return 0;
}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    meson = shutil.which("meson")
    if not meson:
        pytest.skip("meson is not on PATH")
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([meson, "install", "-C", str(BUILD), "--no-rebuild", "--destdir", str(folder)], check=True,
                   capture_output=True)
    package = next(folder.rglob("fastvlm.pc"))
    prefix = next(line.split("=")[1] for line in package.read_text().splitlines() if line.startswith("prefix="))
    return folder, package.parent, folder / prefix.lstrip("/")


def test_program_and_headers(installed):
    _, _, prefix = installed
    version = subprocess.run([prefix / "bin" / "fastvlm", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("fastvlm ")
    here = {path.name for path in (pathlib.Path(__file__).resolve().parents[2] / "include" / "fastvlm").iterdir()}
    assert {path.name for path in (prefix / "include" / "fastvlm").iterdir()} == here


def test_program_against_the_library(installed, tmp_path):
    folder, package, prefix = installed
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    flags = subprocess.run(["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "fastvlm"],
                           env={**os.environ, "PKG_CONFIG_PATH": str(package)}, capture_output=True, text=True, check=True)
    library = next(folder.rglob("libfastvlm.so")).parent
    subprocess.run(["cc", "-std=c11", str(source), *shlex.split(flags.stdout), "-o", str(program)], check=True)
    run = subprocess.run([str(program)], env={**os.environ, "LD_LIBRARY_PATH": str(library)}, capture_output=True, text=True)
    assert run.returncode == 0
    assert "/nowhere" in run.stdout
