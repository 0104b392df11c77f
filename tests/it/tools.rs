//! Programs beside the service that some tests run: Prometheus and its
//! relatives, reverse proxies. `make tools` installs them.

use std::io::Write;
use std::path::PathBuf;

/// The first of these names under which a program is installed.
pub fn find(names: &[&'static str]) -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let is_there = |name: &str| folders.iter().any(|folder| folder.join(name).exists());
    names.iter().copied().find(|name| is_there(name))
}

/// Whether a test can run that needs this program. `make test` makes sure of
/// it; plain `cargo test` leaves such tests out and says so.
pub fn installed(names: &[&'static str]) -> bool {
    is_there_or_skipped(names[0], find(names).is_some())
}

/// The same, for what is found in another way.
pub fn is_there_or_skipped(missing: &str, is_there: bool) -> bool {
    if is_there {
        return true;
    }
    assert!(
        std::env::var_os("ALL_TOOLS").is_none(),
        "{missing} is not installed (make tools)"
    );
    // Past the test harness, which keeps the output of tests that pass.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {missing} is not installed; `make test` installs it and runs all tests"
    );
    false
}

pub const PROMETHEUS: &[&str] = &["prometheus"];
pub const PROMTOOL: &[&str] = &["promtool"];
/// Debian's name first.
pub const ALERTMANAGER: &[&str] = &["prometheus-alertmanager", "alertmanager"];
pub const AMTOOL: &[&str] = &["amtool"];
pub const NGINX: &[&str] = &["nginx"];
pub const CADDY: &[&str] = &["caddy"];
pub const SYSTEMD_ANALYZE: &[&str] = &["systemd-analyze"];
