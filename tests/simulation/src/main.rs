//! `copepod-sim`: runs clusters from seeds until told to stop, and says what fails.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use copepod_simulation::{Mutation, Plan, SECOND, run};

const USAGE: &str =
    "usage: copepod-sim [--from SEED] [--seeds N] [--hours N] [--calm MINUTES] [--mutation NAME] [--trace]
  --from      the first seed (0)
  --seeds     how many seeds to try (100)
  --hours     go on until so many hours are simulated
  --calm      minutes without faults at the end of each run (0)
  --mutation  a mistake to make: SkipSync, LocalReads ... (none)
  --trace     print what happened in each run";

struct Options {
    from: u64,
    seeds: u64,
    hours: Option<f64>,
    calm: u64,
    mutation: Option<Mutation>,
    traces: bool,
}

fn options() -> Option<Options> {
    let mut options = Options { from: 0, seeds: 100, hours: None, calm: 0, mutation: None, traces: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--trace" {
            options.traces = true;
            continue;
        }
        let value = words.next()?;
        match word.as_str() {
            "--from" => options.from = value.parse().ok()?,
            "--seeds" => options.seeds = value.parse().ok()?,
            "--hours" => options.hours = Some(value.parse().ok()?),
            "--calm" => options.calm = value.parse().ok()?,
            "--mutation" => {
                options.mutation = Some(Mutation::ALL.into_iter().find(|it| format!("{it:?}") == value)?);
            }
            _ => return None,
        }
    }
    Some(options)
}

/// Between two lines that say how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let started = Instant::now();
    let mut told = Instant::now();
    let (mut simulated, mut n_seeds, mut n_calls, mut n_failures) = (0.0, 0u64, 0u64, 0u64);
    let summary = |n_seeds, n_calls, simulated: f64, n_failures| {
        let hours = started.elapsed().as_secs_f64() / 3600.0;
        format!(
            "{n_seeds} seeds, {n_calls} calls, {simulated:.1} simulated hours ({:.0} an hour), {n_failures} failures",
            simulated / hours
        )
    };
    loop {
        let is_over = match options.hours {
            Some(hours) => simulated >= hours,
            None => n_seeds >= options.seeds,
        };
        if is_over {
            break;
        }
        let plan = Plan::of(options.from + n_seeds, options.calm * 60 * SECOND, options.mutation);
        let report = run(&plan);
        n_seeds += 1;
        n_calls += report.n_calls;
        simulated += report.simulated as f64 / SECOND as f64 / 3600.0;
        if options.traces {
            println!("{}", report.trace.join("\n"));
        }
        if let Some(failure) = report.failure {
            n_failures += 1;
            tell_failure(&plan, &failure);
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            println!("{}", summary(n_seeds, n_calls, simulated, n_failures));
        }
    }
    println!("{}", summary(n_seeds, n_calls, simulated, n_failures));
    if n_failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The failure, and the smallest plan that fails.
fn tell_failure(plan: &Plan, failure: &str) {
    println!("seed {} failed: {failure}", plan.seed);
    let less = plan.minimised(&mut |plan| run(plan).failure.is_some());
    let report = run(&less);
    println!("{} of {} faults are enough, with {} clients:", less.faults.len(), plan.faults.len(), less.n_clients);
    for (at, fault) in &less.faults {
        println!("  {:>8.3} {fault:?}", *at as f64 / SECOND as f64);
    }
    println!("{}\n{}", report.trace.join("\n"), report.failure.unwrap_or_default());
}
