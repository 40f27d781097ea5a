# Daybook. `make` alone lists the targets.

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/daybook
	CGO_ENABLED=0 go build -trimpath -o bin/daybook ./tools/daybook

.PHONY: generate
generate: ## regenerate the code of the .proto files (needs Python's grpcio-tools)
	GOBIN=$(CURDIR)/bin/gen go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/bin/gen go install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.0
	PATH=$(CURDIR)/bin/gen:$$PATH python3 -m grpc_tools.protoc -I . \
		--go_out=. --go_opt=paths=source_relative \
		--go-vtproto_out=. --go-vtproto_opt=paths=source_relative,features=marshal+unmarshal+size \
		$$(git ls-files -co --exclude-standard '*.proto')
