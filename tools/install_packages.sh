#!/usr/bin/env bash
# Install the packages of tools/packages.txt that are missing. Where none is, neither apt nor the network is touched.
#
#   tools/install_packages.sh build|check|all     install (as root, or with sudo)
#   tools/install_packages.sh --list GROUP        print the names of one group, nothing else
#
# "check" includes "build", and "all" includes "check". On a system without dpkg it does nothing: there the libraries
# of docs/dependencies.md have to come from elsewhere, and meson says which one is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

distribution=debian
if [ -r /etc/os-release ] && grep -q '^ID=ubuntu' /etc/os-release; then
    distribution=ubuntu
fi

# The package names of group $1.
list() {
    awk -v group="$1" -v distribution="$distribution" '
        /^#/ || NF < 2 { next }
        $1 == group || $1 == group ":" distribution { print $2 }' "$here/packages.txt"
}

case "${1:-}" in
--list) list "${2:?a group}"; exit 0 ;;
build) groups="build" ;;
check) groups="build check" ;;
all) groups="build check all" ;;
*) echo "usage: $0 build|check|all, or $0 --list GROUP" >&2; exit 2 ;;
esac
command -v dpkg-query >/dev/null || exit 0

missing=()
for group in $groups; do
    packages=$(list "$group")
    for package in $packages; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        # Of a package installed for two architectures the states come one after the other.
        case "$status" in installed*) ;; *) missing+=("$package") ;; esac
    done
done
[ "${#missing[@]}" -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "fastvlm: packages are missing and this user cannot install them; as root run:" >&2
        echo "  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "installing ${missing[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600)
"${apt[@]}" update >&2
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2
