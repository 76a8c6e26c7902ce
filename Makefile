# Every target works from a fresh clone with Go alone, except: race needs a C
# compiler, and integration, cni, bench and cost need root to show anything.

GO       ?= go
FUZZTIME ?= 10m
NFPM     := $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
LINT     := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# What the release says of itself. The time is that of the commit.
DIST              ?= dist
BENCH             ?= $(CURDIR)/bench.json
COST              ?= $(CURDIR)/cost.json
ROUNDS            ?= 3
CONNECTIONS       ?= 20000
VERSION           ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := build
.PHONY: help build test race fuzz fuzz-short campaign lint golden integration cni bench cost accuracy dist dist-check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the static binary bin/tcpbox
	$(GO) build -trimpath -o bin/ ./cmd/...

test: ## run every test; those that need root skip without it
	$(GO) test ./...

race: export CGO_ENABLED = 1
race: ## run the tests under the race detector; integration runs another binary
	$(GO) test -race -short $$($(GO) list ./... | grep -v -e '/integration$$' -e '/integration/reach$$' -e '/integration/legs$$' -e '/integration/tuning$$')

fuzz: ## fuzz each target for FUZZTIME, by default ten minutes
	@.ci/fuzz $(FUZZTIME)

fuzz-short: ## fuzz each target for twenty seconds
	@.ci/fuzz 20s

campaign: ## compare the log of CONNECTIONS connections over a bad link with the truth
	TCPBOX_CAMPAIGN=$(CONNECTIONS) $(GO) test -count=1 -v -timeout 1h -run '^(TestOracle|TestManyTimeWaits)$$' ./stack/internal/netstack

lint: ## run the linters and check the formatting
	$(LINT) run ./...

golden: ## rewrite the expectations of the tests that compare with files
	$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update

integration: ## run the tests with real namespaces and programs; needs root
	$(GO) test -count=1 ./integration/...

cni: ## run the CNI plugin with cnitool, the reference plugins and podman 4; needs root
	@.ci/cni

bench: ## measure against the kernel and the peers on PATH; needs root, and quiet
	$(GO) test -c -o bin/bench.test ./integration/bench
	bin/bench.test -test.timeout 2h -test.run TestBench -measure -rounds $(ROUNDS) -without '$(WITHOUT)' -samples $(BENCH) $(if $(PAGE),-page $(PAGE))

accuracy: ## measure how exact the delay and the rate of a fault are
	$(GO) test ./stack/fault -run '^$$' -bench '^Benchmark(Delay|Rate|Device)$$' -benchtime 2000x

cost: ## measure what following and logging connections costs; needs root
	$(GO) test -c -o bin/bench.test ./integration/bench
	bin/bench.test -test.timeout 2h -test.run TestCost -measure -rounds $(ROUNDS) -samples $(COST) $(if $(PAGE),-page $(PAGE))

labs: ## run the labs that have one at their real scale; takes minutes
	$(GO) run ./cmd/tcpbox lab run --all --scale

dist: ## build archives, packages and a container image into dist/
	$(GO) run ./deploy/dist -version $(VERSION) -time $(SOURCE_DATE_EPOCH) -nfpm "$(NFPM)" -out $(DIST)

dist-check: ## build what dist builds twice, and compare
	$(MAKE) dist DIST=dist/a
	$(MAKE) dist DIST=dist/b
	diff -r dist/a dist/b
