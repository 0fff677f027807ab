#!/usr/bin/env bash
# Make the Python environment of tests/clients, with the programs that read our exports: tools/clients_env.sh [FOLDER]
#
# FOLDER is build-clients by default. The packages come from PyPI (some gigabytes, once); an environment that was made
# from the same list is left as it is. The tests skip, and say so, where there is none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../build-clients}
list=$here/requirements-clients.txt
# llama.cpp is built from source, without its tools, and on x86-64 for AVX2: its AMX kernels end in a segmentation fault on
# some processors (ggml-org/llama.cpp#20824).
llama=llama-cpp-python==0.3.36
llama_options="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF \
-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF"
if [ "$(uname -m)" = x86_64 ]; then
    llama_options+=" -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON"
fi
made_from=$(cat "$list" && echo "$llama $llama_options")

if [ "$made_from" = "$(cat "$folder/made_from.txt" 2>/dev/null)" ]; then
    exit 0
fi
rm -rf "$folder"
if ! /usr/bin/python3 -m venv "$folder" || ! "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$list"; then
    rm -rf "$folder"
    echo "the clients of tools/requirements-clients.txt could not be installed: tests/clients will be skipped" >&2
    exit 1
fi
# Some minutes, and not from the cache, which knows no options; a machine that needs a quarter of an hour goes without.
if ! CMAKE_ARGS=$llama_options timeout 900 "$folder/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir "$llama"; then
    echo "llama-cpp-python could not be built: the tests with llama.cpp will be skipped" >&2
fi
echo "$made_from" >"$folder/made_from.txt"
