#!/usr/bin/env bash
# The Python environment that the peers run in: bench/peers/setup.sh [FOLDER] (default: build/bench-venv). Downloads
# from PyPI; nothing of it is needed to build, test or use the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${1:-build/bench-venv}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check -r bench/peers/requirements.txt
echo "$folder/bin/python bench/encode_vs_ort.py --model CHECKPOINT --image PICTURE"
