#!/bin/sh
# Builds the programs of a real SPIRE into a folder, for the tests that have one as
# a peer, unless they are there. It takes most of ten minutes of two processors and
# half a gigabyte, so only test-long does. The version is pinned here by its sum;
# what it needs is pinned by its own go.mod and Go's checksum database.
set -eu
go=${GO:-go}
out=$1
version=v1.13.3
sum=h1:wDTK8tj8ShO5izjue/OFanVaehmjUxSxHtSWxBY+FJQ=

[ -x "$out/spire-agent" ] && [ -x "$out/spire-server" ] && [ "$(cat "$out/version" 2>/dev/null)" = "$version" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOFLAGS=-mod=mod
$go mod init spirebuild >/dev/null 2>&1
$go get -tool "github.com/spiffe/spire/cmd/spire-agent@$version" "github.com/spiffe/spire/cmd/spire-server@$version"
grep -qxF "github.com/spiffe/spire $version $sum" go.sum || {
	echo "spire: $version is not what it was" >&2
	exit 1
}
mkdir -p "$out"
GOBIN=$out CGO_ENABLED=1 $go install github.com/spiffe/spire/cmd/spire-agent github.com/spiffe/spire/cmd/spire-server
echo "$version" >"$out/version"
