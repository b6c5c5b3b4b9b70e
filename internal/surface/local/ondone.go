package local

import "context"

// OnDone runs f when ctx ends. Unlike the function of context.AfterFunc, stop
// does not return while f runs: f may use what its caller owns.
func OnDone(ctx context.Context, f func()) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() { defer close(done); f() })
	return func() {
		if !cancel() {
			<-done
		}
	}
}
