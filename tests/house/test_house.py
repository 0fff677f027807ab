"""Keeps the house in order: headers, symbols, the direction of includes, file sizes and names, formatting, packages.

Runs from any folder; FVLM_BUILD names the build folder whose libraries are looked at.
"""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("FVLM_BUILD", ROOT / "build"))
FOLDERS = ("bench", "cli", "include", "src", "tests", "tools")

# What a room may include besides itself and the public headers.
MAY_INCLUDE = {
    "base": set(),
    "kernels": {"base"},
    "formats": {"base", "kernels"},
    "image": {"base", "kernels"},
    "text": {"base", "kernels"},
    "model": {"base", "kernels", "formats", "image", "text"},
    "export": {"base", "kernels", "formats", "text", "model"},
    "train": {"base", "kernels", "formats", "image", "text", "model"},
    "cli": {"base"},
}


def files(*suffixes):
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))
             if path.suffix in suffixes and "__pycache__" not in path.parts]
    assert found, f"no {suffixes} under {ROOT}"
    return found


def name_of(path):
    return str(path.relative_to(ROOT))


def compile_header(command, header):
    run = subprocess.run([*command, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(ROOT / "include"),
                          "-I", str(ROOT / "src"), "-I", str(ROOT / "cli"), "-include", str(header), os.devnull],
                         capture_output=True, text=True)
    return f"{name_of(header)}:\n{run.stderr}" if run.returncode else ""


@pytest.mark.parametrize("command", [["cc", "-std=c11", "-pedantic", "-xc"], ["c++", "-std=c++11", "-xc++"]],
                         ids=["c11", "c++11"])
def test_public_headers_compile_alone(command):
    headers = sorted((ROOT / "include").rglob("*.h"))
    assert len(headers) >= 6
    assert [problem for header in headers if (problem := compile_header(command, header))] == []


def test_internal_headers_compile_alone():
    # The vector vocabulary is included by sources that are compiled once for each instruction set.
    headers = [path for path in files(".h") if path.parts[len(ROOT.parts)] in ("src", "cli") and "vector" not in path.parts]
    assert [problem for header in headers if (problem := compile_header(["cc", "-std=c11", "-xc"], header))] == []


def symbols(library, *options):
    output = subprocess.run(["nm", "--defined-only", *options, str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in output.stdout.splitlines() if len(line.split()) == 3}


def declared():
    text = "".join(path.read_text() for path in (ROOT / "include").rglob("*.h"))
    return set(re.findall(r"^FVLM_API\s[^;(]*?\b(fvlm_\w+)\(", text, re.M))


def test_archive_holds_no_stray_symbol():
    found = symbols(BUILD / "src" / "libfastvlm.a", "-g")
    assert len(found) > 20
    # AddressSanitizer adds a marker for each of our global variables.
    assert sorted(name for name in found if not name.startswith(("fvlm_", "__odr_asan.fvlm_"))) == []


def test_shared_library_exports_the_public_api_and_nothing_else():
    exported = symbols(BUILD / "src" / "libfastvlm.so", "-D")
    assert len(declared()) > 20
    assert sorted(exported ^ declared()) == []


def room_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "src" else parts[0]


def test_includes_follow_the_arrows():
    wrong = []
    for path in files(".c", ".h"):
        room = room_of(path)
        if room not in MAY_INCLUDE:
            continue
        for include in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M):
            target = include.split("/")[0] if "/" in include else room
            if target not in MAY_INCLUDE[room] | {room, "fastvlm"}:
                wrong.append(f"{name_of(path)} includes {include}")
    assert wrong == []


def test_every_room_has_a_rule():
    rooms = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
    assert rooms <= set(MAY_INCLUDE)


def test_no_file_is_too_long():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in files(".c", ".h", ".py", ".sh")}
    assert {name: lines for name, lines in lengths.items() if lines > 1000} == {}


def test_file_names_are_unique():
    seen = {}
    for path in files(".c", ".h", ".py", ".sh"):
        seen.setdefault(path.name, []).append(name_of(path))
    seen.pop("conftest.py", None)
    assert [places for places in seen.values() if len(places) > 1] == []


def test_every_source_opens_with_what_it_is():
    assert [name_of(path) for path in files(".c", ".h") if not path.read_text().startswith("/*")] == []


def test_formatting():
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
    if "version 14." not in version:
        pytest.skip(f"formatting is judged by clang-format 14, here is: {version.strip() or 'none'}")
    run = subprocess.run([program, "--dry-run", "-Werror", *map(str, files(".c", ".h"))], capture_output=True, text=True)
    wrong = sorted({line.split(":")[0] for line in run.stderr.splitlines() if "[-Wclang-format-violations]" in line})
    assert (run.returncode, wrong) == (0, []), "run `make format`"


def package_list():
    lines = (ROOT / "tools" / "packages.txt").read_text().splitlines()
    return [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def test_packages_are_listed_once():
    entries = package_list()
    assert all(len(entry) == 2 for entry in entries)
    assert len(entries) == len(set(entries))
    installed = {name for group, name in entries if group != "arm64"}
    assert sorted(name for group, name in entries if group == "arm64" and name not in installed) == []


def test_packages_are_listed_in_one_place():
    names = {name for _, name in package_list() if name.endswith("-dev")}
    assert len(names) > 10
    wrong = []
    for path in [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "meson.build", *files(".sh", ".py", ".build")]:
        for name in names:
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", path.read_text()):
                wrong.append(f"{name_of(path)} names {name}")
    assert wrong == []


def test_install_script_lists_what_the_file_says():
    script = str(ROOT / "tools" / "install_packages.sh")
    run = subprocess.run([script, "--list", "build"], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) >= {name for group, name in package_list() if group == "build"}
    assert subprocess.run([script, "nonsense"], capture_output=True).returncode == 2
