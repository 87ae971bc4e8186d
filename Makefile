# The two commands of a newcomer are `make demo` and `make test`; `make help` lists all.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

BUILT := $${CARGO_TARGET_DIR:-target}/debug

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: simulator-build ## pair a number, pass messages, survive SIGKILL; then stay up to play with
	@$(BUILT)/trunkline demo

.PHONY: demo-once
demo-once: simulator-build ## the same, then exit: 0 only if nothing was lost or doubled
	@$(BUILT)/trunkline demo --once

.PHONY: run
run: prereqs ## the daemon against the real WhatsApp, state in sessions/
	@cargo build --locked --workspace --bins
	@$(BUILT)/trunkline serve --config config/trunkline.toml --state-dir sessions

.PHONY: test
test: ## everything that must hold before a change lands
	@scripts/test

.PHONY: lint
lint: ## formatting, clippy, and the API definition
	@scripts/prereqs test
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features simulator -- -D warnings
	scripts/proto lint
	scripts/proto breaking

.PHONY: fmt
fmt: ## format Rust and proto
	cargo fmt --all
	@scripts/proto format

.PHONY: bench
bench: prereqs ## the measurements of docs/benchmarks.md
	cargo bench --locked --workspace --benches --features simulator

.PHONY: package
package: ## a Debian package and a tarball with a static program, in target/package/
	@scripts/prereqs package
	@scripts/package

.PHONY: audit
audit: prereqs ## known vulnerabilities in dependencies (needs a network)
	scripts/cargo-deny check advisories

.PHONY: proto-baseline
proto-baseline: ## at a release: record the API that later changes may not break
	scripts/proto baseline

.PHONY: doctor-prereqs
doctor-prereqs: ## say what this machine lacks for `make test`
	@scripts/prereqs test

.PHONY: clean
clean: ## remove everything that was built or installed here
	cargo clean
	rm -rf .tools node_modules tests/peers/node_modules || sudo rm -rf .tools

.PHONY: prereqs
prereqs:
	@QUIET=1 scripts/prereqs build

# The whole workspace at once, as `make test` builds it: selecting one package would select other
# features of shared dependencies and compile those a second time.
.PHONY: simulator-build
simulator-build: prereqs
	@cargo build --locked --workspace --bins --features simulator
