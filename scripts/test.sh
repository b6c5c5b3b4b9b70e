#!/bin/sh
# Runs all tests in two turns, two packages at a time: first those that want the
# processor, then those that start browsers and contained processes, which wait
# most of the time. Arguments go to go test.
set -eu
go=${GO:-go}
module=$($go list -m)

# A package is heavy if its test binary can start a browser, or is known to.
heavy=$($go list -test -f '{{if .ForTest}}{{else}}{{.ImportPath}} {{join .Deps " "}}{{end}}' ./... | awk -v m="$module" '
	$1 !~ /\.test$/ { next }
	{ p = $1; sub(/\.test$/, "", p); h = p == m "/internal/estate" || p == m "/internal/contain" || p == m "/test/demo"
	  for (i = 2; i <= NF; i++) { d = $i; sub(/ .*/, "", d); if (d == m "/internal/browser") h = 1 }
	  if (h) print p }')
light=$($go list ./... | grep -vxF "$heavy")

status=0
echo "test: $(echo "$light" | wc -l) packages side by side, then $(echo "$heavy" | wc -l) with browsers"
# shellcheck disable=SC2086 # words are wanted
$go test -p 2 -timeout 15m "$@" $light || status=1
# shellcheck disable=SC2086
$go test -p 2 -timeout 20m "$@" $heavy || status=1
exit $status
