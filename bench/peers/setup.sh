#!/usr/bin/env bash
# The Python environment that the peers run in: bench/peers/setup.sh [FOLDER] (default: build/bench-venv). Downloads
# from PyPI, several GB with PyTorch, and compiles llama.cpp for this processor, which takes a quarter of an hour on two
# cores. Nothing of it is needed to build, test or use the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${1:-build/bench-venv}
python3 -m venv "$folder"
# llama.cpp without its tools: the library is all that is used.
export CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_TOOLS=OFF \
-DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF"
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-binary llama-cpp-python -r bench/peers/requirements.txt
echo "$folder/bin/python bench/peers/run.py"
