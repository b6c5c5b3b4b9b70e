#!/bin/sh
# The tests that find more the longer they run. FUZZ is the time for each of the
# three readers at the doors (a client of the browser's protocol, a request on
# the wire, what a request means), FUZZ_REST that for every other fuzz target,
# CRASHES how often the running server is killed, ROUNDS how often each
# other loop of crashes, races and power losses is repeated (each repetition has a
# new seed, which it logs, and 15 to 25 kills of its own).
set -eu
go=${GO:-go}
fuzz=${FUZZ:-10m}
rest=${FUZZ_REST:-1m}
rounds=${ROUNDS:-3}
crashes=${CRASHES:-50}
status=0

for pkg in $($go list ./...); do
	dir=$($go list -f '{{.Dir}}' "$pkg")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go 2>/dev/null); do
		case ${pkg##*/}.$target in
		cdp.FuzzParseRequest | egress.FuzzRequest | connector.FuzzRecognize) time=$fuzz ;;
		*) time=$rest ;;
		esac
		echo "== $pkg $target for $time"
		$go test "$pkg" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 5s -parallel 2 || status=1
	done
done

loop() {
	echo "== $1 $2, $rounds times"
	$go test "./$1" -run "^($2)\$" -count "$rounds" -timeout 60m || status=1
}
loop internal/durable 'TestKilledWriterLeavesAWholeFile|TestEachFaultLeavesAWholeFileAndAnError'
loop internal/ledger 'TestKillLosesNothingAcknowledged|TestQueueIsFair|TestConcurrentAppendsKeepOrderAndSums'
loop internal/store 'TestPowerLossLosesNothingAcknowledged|TestLostCommit|TestDatabaseCrash|TestFullDisk|TestFailedSyncPoisons'
loop internal/lease 'TestCrashAtEveryRecordLeavesNothingAlive'
loop internal/gate 'TestBudgetIsExactUnderRaces|TestNothingAfterEnd|TestEndCutsWhatIsInFlight'
loop internal/approval 'TestConcurrent.*'
loop internal/browser 'TestRaceHostilePageWinsNoRound|TestFactsChangedInsideThePress|TestPageCannotDisturbTheGuard'
loop internal/server 'TestStory'
echo "== internal/identity, a real SPIRE"
spire=${SALLYPORT_TEST_SPIRE:-${XDG_CACHE_HOME:-$HOME/.cache}/sallyport-test/spire}
if scripts/spire.sh "$spire"; then
	SALLYPORT_TEST_SPIRE=$spire $go test ./internal/identity -run '^TestSPIREContract$' -count 1 -v || status=1
else
	status=1
fi
echo "== internal/browser, 1200 rounds of a page that swaps"
SALLYPORT_RACE_ROUNDS=25 $go test ./internal/browser -run TestPageThatSwapsWinsNoRound -count 1 -v -timeout 30m || status=1
echo "== test/urls, 10000 addresses"
SALLYPORT_LONG=1 $go test ./test/urls -count 1 -v -timeout 30m || status=1
echo "== test/suites, the suites that ship"
SALLYPORT_LONG=1 $go test ./test/suites -count 1 -v -timeout 60m || status=1
echo "== test/crash, $crashes kills"
SALLYPORT_LONG=1 SALLYPORT_CRASH_ROUNDS=$crashes $go test ./test/crash -count 1 -v -timeout 120m || status=1
exit $status
