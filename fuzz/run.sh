#!/bin/bash
# Coverage-guided fuzzing with libFuzzer, on stable Rust: `fuzz/run.sh` runs every target for FUZZ_SECONDS (60),
# `fuzz/run.sh TARGET...` some of them, `fuzz/run.sh TARGET FILE` one input again.
# What was found to reach new code is kept in corpus/, an input that fails in artifacts/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
seconds=${FUZZ_SECONDS:-60}
# A minute for one input is a hang even on a machine that does other things; no target needs a tenth of the memory.
limits=(-timeout=60 -rss_limit_mb=1024 -dict=words.dict)

if ! command -v c++ >/dev/null; then
    echo "missing: a C++ compiler (libFuzzer is C++); on Debian: apt-get install build-essential" >&2
    exit 1
fi

# The compiler's own pass counts which code an input reaches and shows libFuzzer what is compared with what. It is for
# the code that runs alone: with --target, cargo leaves build scripts and macros as they are.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
target_dir=${CARGO_TARGET_DIR:-$here/../target}/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
echo "== building the fuzz targets (minutes the first time)"
cargo build --quiet --release --target "$triple" --target-dir "$target_dir"
bin=$target_dir/$triple/release

if [ $# -eq 2 ] && [ -f "$2" ]; then
    RUST_BACKTRACE=1 exec "$bin/$1" "${limits[@]}" "$2"
fi

all=$(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' Cargo.toml)
mkdir -p corpus artifacts
"$bin/seeds" seeds
failed=()
for target in ${*:-$all}; do
    mkdir -p "corpus/$target"
    log=artifacts/$target.log
    echo "== $target, $seconds s"
    result=0
    : >"$log"
    RUST_BACKTRACE=1 "$bin/$target" "corpus/$target" "seeds/$target" "${limits[@]}" -max_total_time="$seconds" \
        -max_len=8192 -artifact_prefix="$here/artifacts/$target-" >"$log" 2>&1 &
    running=$!
    trap 'kill $running 2>/dev/null' EXIT
    # libFuzzer says something at every power of two.
    tail --pid=$running -n +1 -f "$log" | sed -nu 's/^\(#[0-9]*\)\t*\(pulse\|INITED\|DONE\) */   \1 /p' | cut -d' ' -f1-10 &
    wait $running || result=$?
    wait
    trap - EXIT
    if [ $result -ne 0 ]; then
        failed+=("$target")
        sed -n "/panicked at/,/^stack backtrace/p; /^==.*ERROR/p" "$log" | head -n 20
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "   FAILED: $target; the input: ${input:-none, see $here/$log}"
        [ -z "$input" ] || echo "   again:  fuzz/run.sh $target $input"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzzing failed: ${failed[*]}"
    exit 1
fi
echo "fuzzing found nothing"
