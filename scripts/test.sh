#!/bin/sh
# Runs all tests in two turns. Browsers and contained processes want the whole
# machine for a moment, so packages that start them run one after the other;
# the others run side by side. Arguments go to go test.
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
echo "test: $(echo "$light" | wc -l) packages side by side, then $(echo "$heavy" | wc -l) with browsers one by one"
# shellcheck disable=SC2086 # words are wanted
$go test -p 2 -timeout 15m "$@" $light || status=1
# shellcheck disable=SC2086
$go test -p 1 -timeout 20m "$@" $heavy || status=1
exit $status
