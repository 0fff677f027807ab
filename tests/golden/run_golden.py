"""Runs golden tests for meson: run_golden.py {own,shared} {all,none,avx2,...} TEST_FILE [PYTEST_OPTION...]

`own` is the set in this folder; `shared` the fixtures beside the checkout (FVLM_SHARED), whose absence is exit status
77, meson's "skipped". The level is the highest instruction set that may be used. Prints which set it was, in the line
that tools/summary.py looks for.
"""

import os
import pathlib
import sys

from golden_set import SHARED

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


def main(which, level, *files):
    if which == "own":
        folder, title = HERE, "tests/golden"
    else:
        folder, title = SHARED / "fixtures" / "tiny", "../shared/fixtures"
    if not folder.is_dir():
        print(f"there is no {folder}: what it adds was not tested")
        return SKIPPED
    print(f"golden set: {title}", flush=True)
    os.environ["FVLM_GOLDEN_SET"] = str(folder)
    os.environ["FVLM_CPU_MASK"] = level
    arguments = ["-B", "-m", "pytest", "-s", "-q", "-rs", "-p", "no:cacheprovider"]
    os.execv(
        sys.executable,
        [sys.executable, *arguments, *(str(HERE / name) if name.endswith(".py") else name for name in files)],
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
