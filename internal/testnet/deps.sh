#!/usr/bin/env bash
# Installs what the namespace tests and benchmarks drive: nginx and redis, the load
# tools wrk and ab, tshark, and the tools they look at the network with. Debian and
# Ubuntu only; elsewhere it says what is missing. Does nothing when all is there.
#
# The packages would make nginx and redis services of this machine. They are not
# to: a policy-rc.d that says no is in place while they are installed, and they
# are not enabled for the next boot either. The tests start their own, in
# namespaces.
set -euo pipefail

declare -A package=(
	[ip]=iproute2 [nsenter]=util-linux [setpriv]=util-linux [ethtool]=ethtool [nft]=nftables
	[nginx]=nginx [redis-server]=redis-server [tcpdump]=tcpdump [zstd]=zstd [tshark]=tshark
	[redis-cli]=redis-tools [redis-benchmark]=redis-tools [wrk]=wrk [ab]=apache2-utils [ss]=iproute2
)
PATH=$PATH:/usr/sbin:/sbin
missing=() packages=()
for program in "${!package[@]}"; do
	if ! command -v "$program" >/dev/null; then
		missing+=("$program")
		packages+=("${package[$program]}")
	fi
done
if [ ${#missing[@]} = 0 ]; then
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "deps.sh: the tests need ${missing[*]}: please install them" >&2
	exit 1
fi

root=()
if [ "$(id -u)" != 0 ]; then
	root=(sudo)
fi
echo "deps.sh: installing ${packages[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap '"${root[@]}" rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
	"${root[@]}" chmod 755 $policy
fi
install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}")
# The lists of packages may be missing or older than the mirror.
"${install[@]}" || { "${root[@]}" apt-get update -q && "${install[@]}"; }

if command -v systemctl >/dev/null; then
	for program in "${missing[@]}"; do
		case $program in
		nginx | redis-server) "${root[@]}" systemctl --quiet disable "$program" || true ;;
		esac
	done
fi
