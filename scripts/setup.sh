#!/usr/bin/env bash
# setup.sh GROUP... - install the Debian packages that a group of tools needs
# and that are missing. Quick and silent when nothing is.
#
#   run   to try a served disk         base  to run the tests
#   rig   to run the QEMU guest         oracle  STGT, to compare with
#   browser  Chromium, to look at the bench's report
set -euo pipefail

declare -A group=(
    [run]="libiscsi-bin"
    [base]="gcc libc6-dev git libiscsi-bin qemu-utils qemu-block-extra tshark util-linux"
    [oracle]="tgt"
    [browser]="chromium"
    [rig]="qemu-system-x86 e2fsprogs kmod xz-utils"
)

missing=()
for g in "$@"; do
    for p in ${group[$g]:?setup.sh: no such group: $g}; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed* ]] || missing+=("$p")
    done
done
((${#missing[@]})) || exit 0

as_root=()
if [[ $(id -u) != 0 ]]; then
    if sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        echo "setup.sh: these packages are missing and this user may not install them:" >&2
        echo "    sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
fi

install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}
echo "setup.sh: installing ${missing[*]}"
install 2>/dev/null || { "${as_root[@]}" apt-get update -qq && install; }
