#!/bin/sh
# A short list of checks that is always clean.
set -eu
go=${GO:-go}
status=0

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not formatted (gofmt -w):"
	echo "$unformatted"
	status=1
fi
$go vet ./... || status=1
$go tool -modfile=tools/go.mod staticcheck ./... || status=1

# govulncheck ends with 3 when it found something, and with 1 when it could not
# look. Its database is on the network; a check that could not run is not a pass,
# so it is said.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
code=0
$go tool -modfile=tools/go.mod govulncheck ./... >"$log" 2>&1 || code=$?
case $code in
0) ;;
3) cat "$log"; status=1 ;;
*)
	if grep -qE 'no such host|connection refused|i/o timeout|network is unreachable|Forbidden|proxyconnect' "$log"; then
		echo "govulncheck: NOT RUN, its database cannot be reached from here"
	else
		cat "$log"
		status=1
	fi
	;;
esac
exit $status
