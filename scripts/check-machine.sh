#!/bin/sh
# Says, one line each, what is missing on this machine and the Debian command that brings it.
missing=0
need() { # name, test, command
    if ! sh -c "$2" >/dev/null 2>&1; then
        printf 'missing: %s; on Debian: %s\n' "$1" "$3" >&2
        missing=1
    fi
}
need "git" "command -v git" "apt-get install git"
# The oldest Rust that will do stands in Cargo.toml alone.
rust=$(sed -n 's/^rust-version *= *"\([0-9]*\.[0-9]*\).*/\1/p' "$(dirname "$0")/../Cargo.toml")
# Of "rustc 1.92.0 (...)", the numbers before and behind the first dot.
newer='v=$(rustc --version) && v=${v#rustc } && minor=${v#*.} && minor=${minor%%[!0-9]*} && major=${v%%.*}'
newer="command -v cargo && $newer"' && [ "$major" -gt '"${rust%.*}"' -o "$major" -eq '"${rust%.*}"' -a "$minor" -ge '"${rust#*.}"' ]'
need "Rust (cargo and rustc, $rust or newer)" "$newer" "apt-get install rustup && rustup default stable"
need "Python 3.11 or newer" "python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'" "apt-get install python3"
need "Python's venv module" "python3 -c 'import venv, ensurepip'" "apt-get install python3-venv"
need "a C compiler" "command -v cc" "apt-get install build-essential"
exit $missing
