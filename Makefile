# What can be done here: make help

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c
LINT        := go tool -modfile=tools.mod golangci-lint
# The linker leaves a program in the page cache in single pages: each start would take a sixth longer. A copy, as an installation has, does not.
BUILD       := $(SHELL) -c 'CGO_ENABLED=0 go build -trimpath -o "$$0" "$$1" && cp "$$0" "$$0.copy" && mv "$$0.copy" "$$0"'
# Most tests wait for processes more than they compute: more at a time than there are CPUs.
TESTS        = go test -race -count=1 -timeout 30m -p $$((3 * $$(nproc))) -parallel $$((4 * $$(nproc)))
GENERATED    = git ls-files -z | xargs -0 sha256sum 2>/dev/null | sha256sum

PREFIX      ?= /usr/local

.DEFAULT_GOAL := build

.PHONY: help build install deb run test test-busy e2e check bench bench-peers compat soak fuzz fmt sizes clean

help: ## print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

build: ## build forkd and the examples into bin/
	$(BUILD) bin/forkd ./cmd/forkd
	$(BUILD) bin/example-fasthttp ./examples/fasthttp
	$(BUILD) bin/example-nethttp ./examples/nethttp
	$(BUILD) bin/example-go-static ./examples/go-static
	$(BUILD) bin/example-websocket ./examples/websocket
	$(BUILD) bin/example-wsload ./examples/wsload
	$(BUILD) bin/example-consumers ./examples/consumers

install: ## install forkd with its units, man pages and completions below PREFIX=/usr/local
	$(BUILD) bin/forkd ./cmd/forkd
	@packaging/install '$(DESTDIR)' '$(PREFIX)'

deb: ## make bin/forkd.deb, the Debian package of what install installs
	$(BUILD) bin/forkd ./cmd/forkd
	@packaging/deb bin/forkd.deb

run: build ## run the fasthttp example under forkd on :8080, one worker per CPU
	@printf '%s\n' 'Try in another terminal:' \
	  '  curl localhost:8080                     first word: pid of the worker' \
	  '  bin/forkd status                        the workers' \
	  '  bin/forkd reload --keep-config example  replace them, lose no request' \
	  '  bin/forkd fleet status                  what this host reports to Redis' \
	  'Ctrl-C stops it.' ''
	@exec bin/forkd run --name example --listen :8080 --redis embedded -- bin/example-fasthttp

test: ## install what the tests need, then run all of them under the race detector
	@test/install
	@$(TESTS) $(TESTFLAGS) ./...

test-busy: ## run all tests three times beside four busy loops: none may depend on how fast the machine is
	@test/busy

e2e: ## play a fleet on namespaces of this machine, as root, and write its plots to docs/
	@test/install
	@go test -count=1 -v -timeout 10m ./test/e2e -plots $(CURDIR)/docs

check: ## formatting, vet, lint, tidy and generated files, builds for amd64 and arm64
	$(LINT) fmt --diff
	go vet ./...
	$(LINT) run ./...
	go mod tidy -diff
	before=$$($(GENERATED)) && go generate ./... && test "$$before" = "$$($(GENERATED))" || { echo 'generated files have changed: commit them' >&2; exit 1; }
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -o /dev/null ./...
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -o /dev/null ./...

bench: build ## measure everything that README promises (20 minutes), and write docs/benchmarks.md
	@$(BUILD) bin/bench ./test/bench
	@$(BUILD) bin/bench-peer ./test/bench/peer
	@$(BUILD) bin/bench-hello ./test/bench/hello
	@bin/bench $(BENCH)

bench-peers: build ## measure forkd beside nginx, prefork, cluster, pm2, gunicorn, puma and uWSGI, and write docs/peers.md; PEERS=-only=forkd,pm2: some
	@test/compat/install
	@$(BUILD) bin/compat ./test/compat
	@$(BUILD) bin/bench-peer ./test/bench/peer
	@bin/compat -peers $(PEERS)

compat: build ## run 30 programs by their natural commands (20 minutes), and write docs/compatibility.md; COMPAT=-only=node,puma: some
	@test/compat/install
	@$(BUILD) bin/compat ./test/compat
	@bin/compat $(COMPAT)

soak: build ## for MIN=5 minutes, make faults from outside under load and judge what comes of them; SEED=N: those of a run before
	@$(BUILD) bin/bench ./test/bench
	@bin/bench -soak $(or $(MIN),5)m -seed $(or $(SEED),0)

fuzz: ## fuzz everything that comes from outside, FUZZTIME=5m for each target
	@test/fuzz

fmt: ## format the Go files
	$(LINT) fmt

sizes: ## lines of each package, and how many files refer to others of it; DIR=another checkout
	@go run ./test/sizes $(or $(DIR),.)

clean: ## remove what was built
	rm -rf bin
