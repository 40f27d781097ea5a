# Daybook. `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# One -trimpath for all, so that every target shares the build cache.
export GOFLAGS := -trimpath

# Packages that are tested with the race detector: all but those that run whole processes.
RACE_PKGS = $$(go list ./... | grep -v -e /tests/ -e /tools/)
REPORT = go run ./tests/report

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: go-version
go-version:
	@go version >/dev/null 2>&1 || { echo "Daybook needs Go 1.26 or later; no go command was found. Install it from your distribution or go.dev." >&2; exit 1; }
	@v=$$(go env GOVERSION); case $$v in go1.2[6-9]*|go1.[3-9][0-9]*|go[2-9]*|devel*) ;; *) echo "Daybook needs Go 1.26 or later; this is $$v. Install a newer one, or let the go command fetch it: GOTOOLCHAIN=auto make" >&2; exit 1;; esac

.PHONY: build
build: go-version ## build bin/daybook
	CGO_ENABLED=0 go build -o bin/daybook ./tools/daybook

.PHONY: run
run: build ## start a server with its topics mounted at ./mnt and the tour's data; Ctrl-C stops it
	@exec bin/daybook standalone --data-dir ./data --mount ./mnt --tour

.PHONY: test
test: go-version ## all tests: units with the race detector, the whole binary, official clients, cross-compilation
	go vet ./...
	for target in linux/arm64 darwin/arm64; do echo "cross-compile $$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build -o /dev/null ./tools/daybook; done
	cd tools/bench && go vet ./...
	failed() { echo "{\"Action\":\"fail\",\"Package\":\"$$1\"}"; }; \
	{ go test -race -json $(RACE_PKGS) || failed "the unit packages"; \
	  go test -count=1 -json ./tests/... ./tools/... || failed "the tests of the binary"; \
	  (cd tests/compat && go vet ./... && go test -count=1 -timeout 20m -json ./...) || failed "the tests with official clients"; } | $(REPORT)

.PHONY: check
check: go-version ## the quick checks before you show a change: formatting, vet, unit tests without races
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these" >&2; exit 1; }
	go vet ./...
	go test $(RACE_PKGS) ./tests/arch

.PHONY: stress
stress: go-version ## run one test many times: make stress PKG=./ledgerfs/mledger RUN=TestName [COUNT=200]
	go test -race -count=$(or $(COUNT),200) -failfast -run '$(RUN)' $(PKG)

FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: go-version ## fuzz every decoder in turn, FUZZTIME=20s each
	for pkg in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
		echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; done; done

.PHONY: bench
bench: go-version ## the benchmarks of the packages
	go test -run '^$$' -bench . -benchmem $(RACE_PKGS)

.PHONY: bench-device
bench-device: go-version ## time synchronous writes of this disk: the limit beside which figures are read
	cd tools/bench && go run . device -dir $(CURDIR)

.PHONY: bench-compare
bench-compare: build ## null broker, Daybook and a real Pulsar under the same load (needs Java and Maven)
	cd tools/bench && go run . compare -daybook $(CURDIR)/bin/daybook

.PHONY: generate
generate: ## regenerate the code of the .proto files (needs Python's grpcio-tools)
	GOBIN=$(CURDIR)/bin/gen go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/bin/gen go install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.0
	PATH=$(CURDIR)/bin/gen:$$PATH python3 -m grpc_tools.protoc -I . \
		--go_out=. --go_opt=paths=source_relative \
		--go-vtproto_out=. --go-vtproto_opt=paths=source_relative,features=marshal+unmarshal+size \
		$$(git ls-files -co --exclude-standard '*.proto')

.PHONY: wipe
wipe: ## delete ./data (the server must be stopped)
	@if [ -e data/LOCK ] && command -v flock >/dev/null && ! flock -n data/LOCK true; then echo "The server of ./data is running (process $$(cat data/LOCK)): stop it first." >&2; exit 1; fi
	@if [ -x bin/daybook ]; then bin/daybook umount ./mnt 2>/dev/null || true; fi
	rm -rf ./data

SUITE_GROUPS ?= connection,producer,consumer,lookup-namespace,ack-nack,partitioned,reader,seek,key-shared
.PHONY: compat-suite
compat-suite: build ## the official Go client's own tests against the binary: SUITE_GROUPS=producer,consumer,…
	tests/compat/suite.sh $(SUITE_GROUPS)
