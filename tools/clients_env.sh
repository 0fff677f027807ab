#!/usr/bin/env bash
# Make the Python environment of tests/clients, with the programs that read our exports: tools/clients_env.sh [FOLDER]
#
# FOLDER is build-clients by default. The packages come from PyPI (some gigabytes, once); an environment that was made
# from the same list is left as it is. The tests skip, and say so, where there is none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../build-clients}
list=$here/requirements-clients.txt

if cmp -s "$list" "$folder/installed.txt"; then
    exit 0
fi
rm -rf "$folder"
if ! /usr/bin/python3 -m venv "$folder" || ! "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$list"; then
    rm -rf "$folder"
    echo "the clients of tools/requirements-clients.txt could not be installed: tests/clients will be skipped" >&2
    exit 1
fi
# Built from source, which takes some minutes; a machine that needs a quarter of an hour goes without.
if ! timeout 900 "$folder/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36; then
    echo "llama-cpp-python could not be built: the tests with llama.cpp will be skipped" >&2
fi
cp "$list" "$folder/installed.txt"
