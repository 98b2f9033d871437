# Spindle. `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help setup run build quick lint test conformance browser clients abuse fuzz sim cover oracle test-rig bench-rig bench-quick pgo docs clean

GO  ?= go
DEV  = $(GO) run ./cmd/spindle-dev
SIZE ?= 1G
LISTEN ?= 127.0.0.1:3260

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing
	@scripts/setup.sh base

run: build ## serve an in-memory disk on 127.0.0.1:3260, until Ctrl-C
	@scripts/setup.sh run
	@exec bin/spindle serve --malloc $(SIZE) --listen $(LISTEN)

build: ## build bin/spindle and bin/spindle-bench; without a C compiler the target has TCP only
	@mkdir -p bin
	@$(GO) build -o bin/ ./cmd/spindle ./cmd/spindle-bench

browser: # one test looks at the bench's report in it, and is skipped without
	@scripts/setup.sh browser || echo "no Chromium: the report's page will not be looked at"

quick: ## the inner loop: vet and unit tests
	@$(GO) vet ./...
	@$(DEV) test unit

lint: ## the house rules
	@$(DEV) test lint

test: setup browser ## everything: lint, unit, race, fuzz (3s each target; CI has FUZZTIME=60s), conformance, clients, rig
	@$(DEV) test

conformance: setup build ## iscsi-test-cu against every form of LUN; prints the table
	@$(DEV) conformance

clients: setup build ## libiscsi, QEMU, churn, noise, abuse, signals
	@$(DEV) test clients

abuse: ## half-open connections, slow logins, oversized requests and noise for ABUSETIME (default 10m), beside a verified stream
	@$(DEV) abuse -time $(or $(ABUSETIME),10m)

fuzz: ## fuzz each target for FUZZTIME (default 1m)
	@$(DEV) fuzz -time $(or $(FUZZTIME),1m)

sim: ## the simulator
	@$(DEV) sim

cover: ## statement coverage of iscsi and scsi by all tests, and what is missing
	@$(DEV) cover

test-rig: ## the kernel's initiator, in a QEMU guest; more with RIG_MINUTES=5, RIG_MOMENTS=200, RIG_SUITES=all
	@scripts/setup.sh base rig
	@$(DEV) test rig

oracle: ## the dialogues against other targets: STGT as root here, LIO in the QEMU guest
	@scripts/setup.sh base rig oracle
	@$(DEV) oracle stgt
	@$(DEV) oracle lio

bench-rig: setup ## STGT, LIO and Spindle over TCP and iSER in a QEMU guest, into docs/performance.md
	@scripts/setup.sh base rig
	@$(DEV) bench-rig -into docs/performance.md

pgo: build ## record the profile that bin/spindle is built with, anew
	@scripts/pgo.sh

bench-quick: ## Go micro-benchmarks, briefly
	@$(GO) test -p 1 -run '^$$' -bench . -benchtime 100ms ./...

docs: ## regenerate docs/rpc.md, check that links lead somewhere
	@$(GO) generate ./control/rpc
	@$(DEV) docs

clean: ## remove what was built
	@rm -rf bin
