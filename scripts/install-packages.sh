#!/bin/sh
# Installs the Debian packages that the tests need and that are missing: one a line in requirements-debian.txt.
set -eu
cd "$(dirname "$0")/.."
missing=$(sed 's/#.*//' requirements-debian.txt | while read -r package; do
    [ -z "$package" ] || dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
done)
[ -n "$missing" ] || exit 0
# The list is a list of words.
set -- $missing
echo "   installing $*"
as_root=
[ "$(id -u)" -eq 0 ] || as_root=sudo
if [ -n "$as_root" ] && ! command -v sudo >/dev/null; then
    echo "missing: the Debian packages $*; as root: apt-get install $*" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install="$as_root apt-get install --yes --no-install-recommends -qq -o DPkg::Lock::Timeout=120"
# Lists of packages may be old or absent.
$install "$@" >/dev/null 2>&1 || { $as_root apt-get update -qq && $install "$@" >/dev/null; }
