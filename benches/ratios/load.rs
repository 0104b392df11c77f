//! Load from wrk, and what it measured.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::Result;
use super::seed::AGENT;
use super::service::{KEY, Service};

/// Percentiles reported, in percent.
pub const PERCENTILES: [f64; 9] = [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// Requests of a kind.
pub struct Load {
    kind: &'static str,
    connections: usize,
    /// First place, and callers to choose from.
    from: usize,
    callers: usize,
    each_once: bool,
}

/// One run.
#[derive(Debug, Clone, Deserialize)]
pub struct Measured {
    pub requests: u64,
    pub seconds: f64,
    /// Requests a second.
    #[serde(skip)]
    pub rate: f64,
    /// At [`PERCENTILES`], in microseconds.
    pub percentiles: Vec<f64>,
}

impl Measured {
    /// In microseconds.
    pub fn p99(&self) -> f64 {
        self.percentiles.get(6).copied().unwrap_or(f64::NAN)
    }
}

#[derive(Deserialize)]
struct Output {
    #[serde(flatten)]
    measured: Measured,
    errors: u64,
}

impl Load {
    /// Rings of callers chosen at random.
    pub fn rings(from: usize, callers: usize) -> Self {
        Self {
            kind: "ring",
            connections: 32,
            from,
            callers,
            each_once: false,
        }
    }

    /// Ended calls of so many callers, each call another one.
    pub fn calls(callers: usize) -> Self {
        Self {
            kind: "call",
            connections: 64,
            ..Self::rings(0, callers)
        }
    }

    pub fn connections(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    /// Goes through all callers instead.
    pub fn each_once(self) -> Self {
        Self {
            each_once: true,
            ..self
        }
    }

    pub fn run(&self, service: &Service, time: Duration) -> Result<Measured> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ratios/load.lua");
        let threads = self.connections.min(2);
        let output = Command::new("wrk")
            .args(["-t", &threads.to_string()])
            .args(["-c", &self.connections.to_string()])
            .args(["-d", &format!("{}s", time.as_secs())])
            .arg("-s")
            .arg(script)
            .arg(format!("http://{}", service.address))
            .env("LOAD_KIND", self.kind)
            .env("LOAD_KEY", KEY)
            .env("LOAD_AGENT", AGENT)
            .env("LOAD_THREADS", threads.to_string())
            .env("LOAD_FROM", self.from.to_string())
            .env("LOAD_CALLERS", self.callers.to_string())
            .env("LOAD_EACH_ONCE", if self.each_once { "1" } else { "" })
            .output()
            .map_err(|e| format!("wrk cannot be run (make tools): {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text
            .lines()
            .find_map(|line| line.strip_prefix("measured "))
            .ok_or_else(|| {
                format!(
                    "wrk failed: {text} {}",
                    String::from_utf8_lossy(&output.stderr)
                )
            })?;
        let Output {
            mut measured,
            errors,
        } = serde_json::from_str(json)?;
        if errors > 0 {
            return Err(format!("{errors} of {} requests failed", measured.requests).into());
        }
        measured.rate = measured.requests as f64 / measured.seconds;
        Ok(measured)
    }
}
