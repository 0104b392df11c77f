.PHONY: test crash-test tools dashboards demo bench

# Everything the tests need beyond cargo; apt-get is used only for what is missing.
tools:
	@missing=; \
	command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null || missing="$$missing prometheus-alertmanager"; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v caddy >/dev/null || missing="$$missing caddy"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	command -v cc >/dev/null || missing="$$missing build-essential"; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	fi

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
	cargo run --release --locked -- demo

# The service beside bare baselines: target/bench/report.md.
bench: tools
	cargo bench --locked --bench ratios
