SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 0
GOLANGCI_VERSION   := v2.15.0
GOLANGCI           := bin/golangci-lint-$(GOLANGCI_VERSION)
VERSION            := $(shell git describe --always --dirty 2>/dev/null || echo devel)
LDFLAGS            := -X main.version=$(VERSION)
FUZZTIME           ?= 30s
BENCH              ?= .
# Namespaces, TUN devices and packet rings need root. Without it `make test`
# asks sudo for that part only.
ROOT               := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env PATH=$$PATH)
export FLOWTWIN_REQUIRE_ROOT

.PHONY: help build demo test deps unit race fuzzseed arch netns fuzz bench microbench lint fmt cover clean

help: ## list targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## static binaries in bin/
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: build ## clients, online and target on three subnets, copied live for 15 s (root)
	go build -trimpath -o bin/demo ./internal/demo
	$(ROOT) bin/demo

test: deps arch unit race netns ## everything: installs what the tests need, then unit, race, fuzz seeds, architecture, namespaces (root)

deps: ## packages that the end-to-end tests drive: nginx, redis, wrk, ab
	internal/testnet/deps.sh

unit: FLOWTWIN_REQUIRE_ROOT = 1
unit: ## unit tests and fuzz seeds, shuffled (root for rings and TUN devices)
	$(ROOT) go test -shuffle=on ./...

race: FLOWTWIN_REQUIRE_ROOT = 1
race: ## the same under the race detector
	CGO_ENABLED=1 $(ROOT) go test -race -shuffle=on ./...

arch: ## import table; never from the test cache, it cannot see other packages change
	go test -count=1 ./internal/archtest

netns: FLOWTWIN_REQUIRE_ROOT = 1
netns: build ## end-to-end tests: real binaries between network namespaces (root)
	$(ROOT) go test -count=1 -tags netns -timeout 15m ./internal/e2e/...

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -r -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -d' ' -f2); do \
	    go test -run='^$$' -fuzz="^$$f$$" -fuzztime=$(FUZZTIME) ./$$p || exit 1; done; done

bench: build ## the figures of the whole: CPU, lag, throughput, memory; table and bin/bench.json (root, minutes)
	internal/testnet/deps.sh
	go build -trimpath -o bin/bench ./internal/bench
	$(ROOT) bin/bench -json bin/bench.json

microbench: ## Go benchmarks, 10 runs, to bin/new.txt
	@mkdir -p bin
	go test -run='^$$' -bench='$(BENCH)' -benchmem -count=10 ./... | tee bin/new.txt

$(GOLANGCI):
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv bin/golangci-lint $@

lint: $(GOLANGCI) ## golangci-lint, go fix, go mod tidy: report only
	$(GOLANGCI) run ./...
	$(GOLANGCI) fmt --diff
	test -z "$$(go fix -diff ./... | tee /dev/stderr)"
	go mod tidy -diff

fmt: $(GOLANGCI) ## format and modernise in place
	$(GOLANGCI) fmt
	go fix ./...
	go mod tidy

cover: ## coverage of unit tests, per function
	@mkdir -p bin
	go test -coverpkg=./... -coverprofile=bin/cover.out ./... && go tool cover -func=bin/cover.out

clean: ## remove bin/
	rm -rf bin
