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
mod postgres;
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
/// Callers and waiting calls in PostgreSQL.
const SOME: usize = 100_000;
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
        ["bare-post-call", address, database] => baselines::post_call(address, database),
        _ => run(arguments.contains(&"postgres")),
    }
}

fn run(on_postgres_alone: bool) -> Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let folder = folder.path();
    let mut report = Report::new(ROUNDS, ROUND);
    if !on_postgres_alone {
        warm_rings(folder, &mut report)?;
        post_calls(folder, &mut report)?;
        eprintln!("seeding {MANY} callers");
        let many = folder.join("many.db");
        seed::callers(&many, MANY)?;
        cold_rings(&many, &mut report)?;
        many_sessions(folder, &many, &mut report)?;
    }
    match postgres::Server::start(folder)? {
        Some(server) => on_postgres(folder, &server, &mut report)?,
        None => eprintln!("PostgreSQL is not installed (make tools): it is left out"),
    }
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
        learned.push((ours.until_drained(drained), theirs.clone()));
        acknowledged.push((ours, theirs));
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

/// The same on PostgreSQL, which is on the same processors, too.
fn on_postgres(folder: &Path, server: &postgres::Server, report: &mut Report) -> Result<()> {
    let start = |database: &str, place: &str| {
        let place = folder.join(place);
        Service::start(&Options::postgres(&server.url(database), &place))
    };
    eprintln!("rings on PostgreSQL");
    server.database("rings")?;
    server.seed_callers("rings", SOME)?;
    let service = start("rings", "rings")?;
    let bare = Service::bare(
        "bare-ring",
        &[&service.ring(&seed::number(0))?.len().to_string()],
    )?;
    let load = Load::rings(0, SOME).connections(8);
    let rounds = compare(|| load.run(&service, ROUND), || load.run(&bare, ROUND))?;
    let ring = "ring on PostgreSQL, 100,000 callers, 8 connections";
    report.push(Row::throughput(
        ring,
        "bare warp handler, same bytes",
        &rounds,
    ));
    report.push(Row::p99(ring, "3 ms", &against(3_000.0, &rounds)).most(1.0));
    drop((service, bare));

    eprintln!("post-call on PostgreSQL");
    let (mut acknowledged, mut learned) = (Vec::new(), Vec::new());
    let (mut embedded, mut alone) = (Vec::new(), Vec::new());
    let mut three_of_one = Vec::new();
    let load = Load::calls(10_000);
    for round in 0..ROUNDS {
        let bare = Service::bare(
            "bare-post-call",
            &[&server.database(&format!("bare{round}"))?],
        )?;
        let theirs = load.run(&bare, 2 * ROUND)?;
        drop(bare);
        let sqlite = Service::start(&Options::new(&folder.join(format!("beside{round}.db"))))?;
        let run = load.run(&sqlite, 2 * ROUND)?;
        let drained = sqlite.drain()?;
        drop(sqlite);
        embedded.push(run.until_drained(drained));
        let name = format!("calls{round}");
        server.database(&name)?;
        let service = start(&name, &name)?;
        let run = load.run(&service, 2 * ROUND)?;
        let done = run.until_drained(server.drain(&name)?);
        drop(service);
        acknowledged.push((run, theirs.clone()));
        learned.push((done.clone(), theirs));
        alone.push(done);

        let name = format!("fleet{round}");
        server.database(&name)?;
        let fleet = [1, 2, 3].map(|n| start(&name, &format!("{name}-{n}")));
        let [one, two, three] = fleet;
        let fleet = [one?, two?, three?];
        let run = load.run_on_all(&fleet, 2 * ROUND)?;
        three_of_one.push(run.until_drained(server.drain(&name)?));
    }
    let loop_ = "warp, HMAC and multi-row INSERTs on the same connections";
    let what = "post-call acknowledgement on PostgreSQL while learning runs";
    report.push(Row::throughput(what, loop_, &acknowledged).least(0.5));
    let what = "calls learned and archived a second on PostgreSQL";
    report.push(Row::throughput(what, loop_, &learned).least(0.5));
    let pairs = |a: &[Measured], b: &[Measured]| {
        a.iter().cloned().zip(b.iter().cloned()).collect::<Vec<_>>()
    };
    report.push(Row::throughput(
        what,
        "the same on SQLite",
        &pairs(&alone, &embedded),
    ));
    let three = "calls learned and archived a second by three instances";
    report.push(Row::throughput(
        three,
        "the same by one",
        &pairs(&three_of_one, &alone),
    ));

    eprintln!("claims on PostgreSQL");
    let few = server.claim_cost("claims_few", 100, 100)?;
    for (what, name, callers) in [
        ("claiming 64 calls, 100,000 waiting", "claims_many", 100),
        (
            "claiming 64 calls, 100,000 callers waiting",
            "claims_callers",
            SOME,
        ),
    ] {
        let cost = server.claim_cost(name, SOME, callers)?;
        let (cost, few) = (Measured::lasting(cost), Measured::lasting(few));
        report.push(Row::p99(what, "the same with 100 waiting", &[(cost, few)]).most(1.5));
    }
    Ok(())
}

/// A limit in microseconds, for comparison.
fn against(limit: f64, rounds: &[(Measured, Measured)]) -> Vec<(Measured, Measured)> {
    let limit = Measured::lasting(limit);
    let ours = rounds.iter().map(|(ours, _)| ours.clone());
    ours.map(|ours| (ours, limit.clone())).collect()
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
