#!/usr/bin/env bash
# Unpack the arm64 libraries that a cross build needs (group arm64 of tools/packages.txt) into a folder of their own.
#
#   tools/arm64_root.sh FOLDER
#
# Nothing is installed and dpkg's list of architectures stays as it is: apt works with a private state in FOLDER, from
# the system's own sources. On Ubuntu arm64 packages are on another host, ports.ubuntu.com.
set -euo pipefail
root=$(realpath -m "${1:?folder}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
list=$("$here/install_packages.sh" --list arm64)
done_mark=$root/.complete
if [ -f "$done_mark" ] && [ "$(cat "$done_mark")" = "$list" ]; then
    exit 0
fi

rm -rf "$root"
apt=$root/apt
mkdir -p "$apt"/{lists/partial,archives/partial,sources.list.d} "$root/usr/lib" "$root/usr/bin"
touch "$apt/status"
# Both distributions have /lib as a link.
ln -s usr/lib "$root/lib"
for sources in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$sources" ] || continue
    sed -E 's#https?://(archive|security|[a-z]+\.archive)\.ubuntu\.com/ubuntu/?#http://ports.ubuntu.com/ubuntu-ports/#' \
        "$sources" >"$apt/sources.list.d/$(basename "${sources/sources.list/main.list}")"
done
options=(-q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State=$apt" -o "Dir::State::status=$apt/status"
    -o "Dir::Cache=$apt" -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/sources.list.d"
    -o APT::Install-Recommends=false -o APT::Sandbox::User=root)
echo "fetching arm64 libraries" >&2
apt-get "${options[@]}" update >&2
# shellcheck disable=SC2086 # the list is words
apt-get "${options[@]}" install -y --download-only $list >&2
for package in "$apt"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
done
rm -rf "$apt"
printf "[constants]\nroot = '%s'\n" "$root" >"$root/place.ini"
printf '%s' "$list" >"$done_mark"
