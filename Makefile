# Thin on purpose: each target is one command that you could type.
GO    ?= go
OUT   ?= demo-out
STORE ?=
export GO FUZZ FUZZ_REST CRASHES ROUNDS

.PHONY: build up demo deps deps-browser test test-short test-long lint bench generate clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o bin/sallyport ./cmd/sallyport

up: deps-browser build
	bin/sallyport up

# The whole story on the sample estate. STORE=postgres://... keeps the ledger there.
demo: deps-browser build
	bin/sallyport demo --headless --out $(OUT) $(if $(STORE),--store '$(STORE)')

deps:
	scripts/deps.sh

deps-browser:
	scripts/deps.sh browser

# STORE=postgres runs every server and ledger of the tests on a PostgreSQL of their own.
test: deps
	$(GO) vet ./...
	SALLYPORT_TEST_STORE=$(STORE) scripts/test.sh

test-short:
	$(GO) test -short ./...

# FUZZ=10m for each reader at the doors, FUZZ_REST=1m for every other fuzz target, CRASHES=50 kills of the server, ROUNDS=3 of every other crash loop.
test-long: deps
	scripts/long.sh

lint:
	scripts/lint.sh

bench: deps
	$(GO) run ./bench

generate:
	$(GO) generate ./...

clean:
	rm -rf bin demo-out
