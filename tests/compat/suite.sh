#!/usr/bin/env bash
# Runs groups of the official Go client's own test suite, from a copy of its module, against the built binary.
# usage: suite.sh GROUP,GROUP,… [option of run-go-suite.sh …]
# Prints each group's counts and what failed; logs are in the folder it names. The server runs with the settings that the suite
# takes as given.
set -eu
groups=$1; shift
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
src=$(cd "$here" && go list -m -f '{{.Dir}}' github.com/apache/pulsar-client-go)
work=$(mktemp -d); server=
stop() { [ -z "$server" ] || { kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; } || true; rm -rf "$work"; }
trap stop EXIT
"$root/bin/daybook" standalone --data-dir "$work/data" --broker-port 0 --http-port 0 \
  --set maxMessageSize=1048576 > "$work/server.log" 2>&1 &
server=$!
for _ in $(seq 100); do [ -f "$work/data/endpoints.json" ] && break; sleep 0.1; done
[ -f "$work/data/endpoints.json" ] || { cat "$work/server.log" >&2; exit 2; }
url() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$work/data/endpoints.json"; }
bash "$here/run-go-suite.sh" --src "$src" --service "$(url service_url)" --admin "$(url admin_url)" --groups "$groups" --no-setup "$@"
