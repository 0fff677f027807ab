"""Runs a file of client tests with the Python of tools/clients_env.sh: run_clients.py TEST_FILE [PYTEST_OPTION...]

FVLM_CLIENTS names the environment's folder (build-clients at the top otherwise). Without one it is exit status 77,
meson's "skipped".
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77


def main(path, *options):
    python = pathlib.Path(os.environ.get("FVLM_CLIENTS", ROOT / "build-clients")) / "bin" / "python"
    if not python.exists():
        print(f"there is no {python}: tools/clients_env.sh makes it; {pathlib.Path(path).name} was not run")
        return SKIPPED
    sys.stdout.flush()
    command = [str(python), "-B", "-m", "pytest", "-s", "-q", "-rs", "-p", "no:cacheprovider",
               "-o", "tmp_path_retention_policy=failed", path, *options]
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
