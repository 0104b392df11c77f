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
    /// Something that lasts so many microseconds.
    pub fn lasting(microseconds: f64) -> Self {
        Self {
            requests: 1,
            seconds: microseconds / 1e6,
            rate: 1e6 / microseconds,
            percentiles: vec![microseconds; PERCENTILES.len()],
        }
    }

    /// With the rate at which the work was done, if it went on for so long
    /// after the last request.
    pub fn until_drained(&self, drained: Duration) -> Self {
        Self {
            rate: self.requests as f64 / (self.seconds + drained.as_secs_f64()),
            ..self.clone()
        }
    }

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

    /// On several at once, with the connections shared out; what they did in all.
    pub fn run_on_all(&self, services: &[Service], time: Duration) -> Result<Measured> {
        let share = |place: usize| Self {
            connections: self.connections / services.len(),
            // Calls of their own.
            from: self.from + place * 1_000_000,
            ..*self
        };
        let runs: Vec<Measured> = std::thread::scope(|scope| {
            let runs: Vec<_> = services
                .iter()
                .enumerate()
                .map(|(place, service)| {
                    let load = share(place);
                    scope.spawn(move || load.run(service, time).map_err(|e| e.to_string()))
                })
                .collect();
            let joined = runs
                .into_iter()
                .map(|run| run.join().map_err(|_| "a run panicked")?);
            joined.collect::<std::result::Result<_, String>>()
        })?;
        let requests = runs.iter().map(|run| run.requests).sum();
        let seconds = runs.iter().map(|run| run.seconds).fold(0.0, f64::max);
        Ok(Measured {
            requests,
            seconds,
            rate: requests as f64 / seconds,
            percentiles: Vec::new(),
        })
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
