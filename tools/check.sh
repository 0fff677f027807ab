#!/usr/bin/env bash
# The test runs behind the Makefile: tools/check.sh check|check-all|asan|ubsan|tsan|fuzz|arm64|wasm.
#
# Each run configures and builds its own folder (build, build-asan, ...), runs meson's tests there and keeps the log;
# at the end tools/summary.py adds the logs up. A failing run does not keep the next ones from running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=${1:?check, check-all, asan, ubsan, tsan, fuzz, arm64 or wasm}
python=/usr/bin/python3
failed=0
logs=()
broken=()
left_out=()

# suite NAME BUILD_FOLDER ARGUMENTS...: `meson test` in a folder that is built; its log is kept as testlog-NAME.json.
suite() {
    local name=$1 build=$2
    shift 2
    local log="$build/meson-logs/testlog-$name.json"
    rm -f "$log"
    meson test -C "$build" --no-rebuild --print-errorlogs --logbase "testlog-$name" "$@" || failed=1
    if [ -s "$log" ]; then
        logs+=("$log")
    else
        echo "the tests of $build ($name) did not run" >&2
        failed=1
    fi
}

# compile BUILD_FOLDER SETUP_ARGUMENTS...
compile() {
    local build=$1
    shift
    if [ ! -f "$build/build.ninja" ]; then
        rm -rf "$build"
        meson setup "$build" "$@" || return 1
    fi
    ninja -C "$build"
}

# attempt RUN [MINUTES]: what does not even build is a failure, and the next run goes on. A run that takes some MINUTES
# is left out, and the summary says so, where FVLM_MINUTES bounds how long all of them may take and it would be over.
attempt() {
    if [ -n "${FVLM_MINUTES:-}" ] && [ $((SECONDS / 60 + ${2:-0})) -gt "$FVLM_MINUTES" ]; then
        left_out+=("$1")
    elif ! "$1"; then
        echo "$1 could not be built" >&2
        broken+=("$1")
    fi
}

# Tests of the suite "full" need full-size models, those of "clients" other programs; those of "house" look at the
# sources and need no second run.
run_check() {
    # A build of `make demo` may have been set up before what the tests need was there.
    if [ -f build/build.ninja ] && [ "$(meson introspect build --tests)" = "[]" ]; then
        meson configure build -Dtests=enabled || return 1
    fi
    compile build -Dtests=enabled || return 1
    suite check build --no-suite full --no-suite clients
}

run_full() {
    suite full build --suite full --num-processes 1
}

# Our exports in other people's programs. Where these cannot be installed, the tests say so and are skipped.
run_clients() {
    tools/clients_env.sh || true
    suite clients build --suite clients --num-processes 1
}

run_asan() {
    compile build-asan -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false || return 1
    suite asan build-asan --no-suite full --no-suite clients --no-suite house --timeout-multiplier 5
}

run_ubsan() {
    compile build-ubsan -Dbuildtype=debugoptimized -Db_sanitize=undefined -Db_lundef=false || return 1
    suite ubsan build-ubsan --no-suite full --no-suite clients --no-suite house --timeout-multiplier 5
}

# What runs on several threads: the pool, the kernels over it, whole answers.
run_tsan() {
    compile build-tsan -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false || return 1
    # gcc 12's ThreadSanitizer does not know address spaces that are shuffled more than this.
    local wrapper=()
    if [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)" -gt 28 ]; then
        wrapper=(--wrapper "setarch --addr-no-randomize")
    fi
    suite tsan build-tsan --suite unit --suite kernels --suite golden --no-suite full --timeout-multiplier 10 \
        "${wrapper[@]}"
}

run_arm64() {
    tools/arm64_root.sh build-arm64-root || return 1
    compile build-arm64 --cross-file build-arm64-root/place.ini --cross-file tools/arm64.ini || return 1
    suite arm64 build-arm64 --suite unit --suite kernels --suite golden --suite fuzz --no-suite full --timeout-multiplier 20
}

# The kernels, in WebAssembly with SIMD.
run_wasm() {
    compile build-wasm --cross-file tools/wasm.ini -Dkernels_only=true || return 1
    suite wasm build-wasm --suite kernels --timeout-multiplier 10
}

# libFuzzer, a short while for each target; `meson configure build-fuzz -Dfuzz_seconds=3600` for longer.
run_fuzz() {
    CC=clang compile build-fuzz -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false -Dfuzz=true || return 1
    suite fuzz build-fuzz --suite libfuzzer --num-processes 2 --timeout-multiplier 0
}

case "$what" in
check)
    tools/install_packages.sh check
    attempt run_check
    ;;
check-all)
    tools/install_packages.sh all
    attempt run_check
    attempt run_full 4
    attempt run_asan 10
    attempt run_tsan 10
    attempt run_fuzz 5
    attempt run_wasm 3
    attempt run_arm64 10
    attempt run_clients 15
    ;;
asan | ubsan | tsan | fuzz | arm64 | wasm)
    tools/install_packages.sh all
    attempt "run_$what"
    ;;
*)
    echo "unknown run '$what'" >&2
    exit 2
    ;;
esac
"$python" tools/summary.py --broken "${#broken[@]}" --left-out "${left_out[*]}" "${logs[@]}" || failed=1
exit "$failed"
