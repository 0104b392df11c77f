//! `make bench`: the service beside bare baselines, in one run on one machine.
//!
//! Each comparison takes turns: service, baseline, service, baseline, so that
//! a noisy neighbour hurts both. The report holds the median of the rounds and
//! their spread; only ratios mean something elsewhere. It is written to
//! `target/bench/report.md`, with its plots beside it.
//!
//! wrk makes the load, on the same processors: what it takes is missing on
//! both sides.

mod baselines;
mod load;
mod plots;
mod report;
mod seed;
mod service;

use std::path::Path;
use std::time::Duration;

use load::{Load, Measured};
use report::{Report, Row};
use service::{Options, Service};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Callers that the large databases know.
const MANY: usize = 1_000_000;
/// Sessions of an instance that is busy.
const ACTIVE: usize = 200_000;
/// Rounds of each comparison.
const ROUNDS: usize = 5;
/// How long each side of a round is measured.
const ROUND: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        // The baselines run as processes of their own, like the service.
        ["bare-ring", address, bytes] => baselines::ring(address, bytes.parse()?),
        ["bare-post-call", address, database] => baselines::post_call(address, Path::new(database)),
        _ => run(),
    }
}

fn run() -> Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let folder = folder.path();
    let mut report = Report::new(ROUNDS, ROUND);
    warm_rings(folder, &mut report)?;
    post_calls(folder, &mut report)?;
    eprintln!("seeding {MANY} callers");
    let many = folder.join("many.db");
    seed::callers(&many, MANY)?;
    cold_rings(&many, &mut report)?;
    many_sessions(folder, &many, &mut report)?;
    let path = report.write(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    eprintln!("{}", path.display());
    Ok(())
}

/// A ring for an active caller against a bare handler that answers as many bytes.
fn warm_rings(folder: &Path, report: &mut Report) -> Result<()> {
    for (name, filter, least, most) in [
        ("warm ring, RUST_LOG=warn", "warn", 0.85, 1.5),
        ("warm ring, default logging to a file", "info", 0.70, 2.0),
    ] {
        eprintln!("{name}");
        let database = folder.join(format!("{filter}.db"));
        seed::callers(&database, 1)?;
        let service = Service::start(&Options::new(&database).log(filter))?;
        let bytes = service.ring(&seed::number(0))?.len();
        let bare = Service::bare("bare-ring", &[&bytes.to_string()])?;
        let load = Load::rings(0, 1);
        let rounds = compare(|| load.run(&service, ROUND), || load.run(&bare, ROUND))?;
        report.push(Row::throughput(name, "bare warp handler, same bytes", &rounds).least(least));
        report.push(Row::p99(name, "bare warp handler, same bytes", &rounds).most(most));
        if filter == "warn" {
            report.latencies(&rounds);
            for connections in [1, 4, 16, 64, 256] {
                let load = Load::rings(0, 1).connections(connections);
                let ours = load.run(&service, ROUND)?;
                let theirs = load.run(&bare, ROUND)?;
                report.connections(connections, &ours, &theirs);
            }
        }
    }
    Ok(())
}

/// Acknowledging calls while they are learned and archived.
fn post_calls(folder: &Path, report: &mut Report) -> Result<()> {
    eprintln!("post-call");
    let (mut acknowledged, mut learned) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let service = Service::start(&Options::new(&folder.join(format!("calls{round}.db"))))?;
        let inserts = folder.join(format!("inserts{round}.db"));
        let bare = Service::bare("bare-post-call", &[&inserts.display().to_string()])?;
        let load = Load::calls(10_000);
        let theirs = load.run(&bare, 2 * ROUND)?;
        let ours = load.run(&service, 2 * ROUND)?;
        let drained = service.drain()?;
        let rate = ours.requests as f64 / (ours.seconds + drained.as_secs_f64());
        let done = Measured {
            rate,
            ..ours.clone()
        };
        acknowledged.push((ours, theirs.clone()));
        learned.push((done, theirs));
    }
    let baseline = "warp, HMAC and one INSERT in a group commit";
    report.push(
        Row::throughput(
            "post-call acknowledgement while learning runs",
            baseline,
            &acknowledged,
        )
        .least(0.5),
    );
    report.push(
        Row::throughput(
            "calls learned and archived a second, to the last of the backlog",
            baseline,
            &learned,
        )
        .least(0.25),
    );
    Ok(())
}

/// A ring for a caller who has no session, against the same reads alone.
fn cold_rings(many: &Path, report: &mut Report) -> Result<()> {
    eprintln!("cold rings");
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // Every ring is for another caller.
        let service = Service::start(&Options::new(many).sessions(MANY))?;
        let load = Load::rings(round * 200_000, MANY).each_once();
        let ours = load.run(&service, ROUND)?;
        let theirs = baselines::raw_reads(many, round * 200_000, MANY, ROUND)?;
        rounds.push((ours, theirs));
    }
    report.push(
        Row::throughput(
            "cold ring, 1,000,000 callers in SQLite",
            "the same reads on as many connections, without HTTP",
            &rounds,
        )
        .least(0.5),
    );
    Ok(())
}

/// What known callers and active sessions cost the ring of another.
fn many_sessions(folder: &Path, many: &Path, report: &mut Report) -> Result<()> {
    eprintln!("many sessions");
    let few = Service::start(&Options::new(many).log("warn").sessions(2 * ACTIVE))?;
    let busy = Service::start(
        &Options::new(many)
            .log("warn")
            .sessions(2 * ACTIVE)
            .copy_in(folder)?,
    )?;
    activate(&few, 1_000)?;
    let before = busy.memory()?;
    activate(&busy, ACTIVE)?;
    let each = (busy.memory()? - before) / ACTIVE as f64;
    report.memory(each);
    let rounds = compare(
        || Load::rings(0, ACTIVE).run(&busy, ROUND),
        || Load::rings(0, 1_000).run(&few, ROUND),
    )?;
    report.push(
        Row::p99(
            "warm ring, 1,000,000 known callers and 200,000 active sessions",
            "the same with 1,000 active sessions",
            &rounds,
        )
        .most(1.5),
    );
    for active in [1_000, 10_000, 50_000, ACTIVE] {
        let measured = Load::rings(0, active).run(&busy, ROUND)?;
        report.sessions(active, &measured);
    }
    drop((few, busy));
    for known in [1_000, 10_000, 100_000] {
        let database = folder.join(format!("known{known}.db"));
        seed::callers(&database, known)?;
        let service = Service::start(&Options::new(&database).log("warn"))?;
        activate(&service, 1_000)?;
        report.known(known, &Load::rings(0, 1_000).run(&service, ROUND)?);
    }
    let service = Service::start(&Options::new(many).log("warn"))?;
    activate(&service, 1_000)?;
    report.known(MANY, &Load::rings(0, 1_000).run(&service, ROUND)?);
    Ok(())
}

/// Rings once for each of the first `count` callers.
fn activate(service: &Service, count: usize) -> Result<()> {
    let mut next = 0;
    while service.sessions()? < count {
        let load = Load::rings(next, count).each_once();
        next += load.run(service, Duration::from_secs(2))?.requests as usize;
    }
    Ok(())
}

/// Takes turns, after a warm-up that does not count.
fn compare(
    ours: impl Fn() -> Result<Measured>,
    theirs: impl Fn() -> Result<Measured>,
) -> Result<Vec<(Measured, Measured)>> {
    ours()?;
    theirs()?;
    (0..ROUNDS).map(|_| Ok((ours()?, theirs()?))).collect()
}
