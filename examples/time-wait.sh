#!/usr/bin/env bash
# Who holds TIME-WAIT? Whoever closes first. Here the server is a host inside
# the sandbox's stack, the client is the guest, and both ends can be looked at:
# the guest's in its /proc/net, the stack's in the log.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# What the guest runs: one connection, closed as the first argument says, and
# when the stack's end is over, which is after the last ACK, the number of the
# guest's sockets in TIME-WAIT (state 06 in /proc/net/tcp).
cat >client.sh <<'SCRIPT'
exec 3<>/dev/tcp/server/80
[ "$1" = waits ] && cat <&3 # until the server has closed
exec 3>&-
until grep -q '"to":"CLOSED","cause":"timer\|LAST-ACK","to":"CLOSED"' log; do sleep 0.1; done
cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == "06"' | wc -l >guest
SCRIPT

# row runs it and prints a line: what happened, and TIME-WAITs on both ends.
row() {
	what=$1 kind=$2 client=$3
	shift 3
	tcpbox run --quiet --timeout 60s --net none --log log --no-guest-leg --peer "server=$kind" "$@" -- bash client.sh "$client"
	stack=$(grep -c '"to":"TIME-WAIT"' log || true)
	lasted=$(sed -n 's/.*"from":"TIME-WAIT","to":"CLOSED","cause":"timer time-wait".*"age":\([0-9.]*\)}/\1/p' log)
	printf '%-40s %5d %5d   %s\n' "$what" "$(cat guest)" "$stack" "${lasted:+${lasted%???????} s on the stack}"
}

printf '%-40s %5s %5s   %s\n' "" guest stack lasted
row "client closes first" discard closes | tee result
row "server closes first, 1 s" closer waits --tcp stack.time-wait.timeout=1s | tee -a result
row "server closes first, no TIME-WAIT" closer waits --tcp stack.time-wait.timeout=0 | tee -a result

# The client's own TIME-WAIT is its kernel's, and nothing of tcpbox's.
grep -q '^client closes first  *1  *0 ' result
grep -q '^server closes first, 1 s  *0  *1  *1\.' result
grep -q '^server closes first, no TIME-WAIT  *0  *1  *0\.' result
