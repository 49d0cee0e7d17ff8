//! `copepod-sim`: runs clusters from seeds until told to stop, and says what fails.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use copepod_simulation::{Mutation, Plan, Report, SECOND, run};
use mimalloc::MiMalloc;

/// As servers have it; a run takes a tenth less time than with the allocator of glibc.
#[global_allocator]
static HEAP: MiMalloc = MiMalloc;

const USAGE: &str =
    "usage: copepod-sim [--from SEED] [--seeds N] [--hours N] [--calm MINUTES] [--mutation NAME] [--trace] [--brief]
  --from      the first seed (0)
  --seeds     how many seeds to try (100)
  --hours     go on until so many hours are simulated
  --calm      minutes without faults at the end of each run (0)
  --mutation  a mistake to make: SkipSync, LocalReads ... (none)
  --trace     print what happened in each run
  --brief     do not look for the smallest plan that fails";

struct Options {
    from: u64,
    seeds: u64,
    hours: Option<f64>,
    calm: u64,
    mutation: Option<Mutation>,
    traces: bool,
    is_brief: bool,
}

fn options() -> Option<Options> {
    let mut options =
        Options { from: 0, seeds: 100, hours: None, calm: 0, mutation: None, traces: false, is_brief: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--trace" || word == "--brief" {
            *(if word == "--trace" { &mut options.traces } else { &mut options.is_brief }) = true;
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
    let mut sum = Sum::default();
    loop {
        let is_over = match options.hours {
            Some(hours) => sum.hours >= hours,
            None => sum.n_seeds >= options.seeds,
        };
        if is_over {
            break;
        }
        let plan = Plan::of(options.from + sum.n_seeds, options.calm * 60 * SECOND, options.mutation);
        let report = run(&plan);
        sum.add(&report);
        if options.traces {
            println!("{}", report.trace.join("\n"));
        }
        if let Some(failure) = report.failure {
            sum.n_failures += 1;
            println!("seed {} failed: {failure}", plan.seed);
            if !options.is_brief {
                tell_failure(&plan);
            }
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            println!("{}", sum.told(started.elapsed()));
        }
    }
    println!("{}", sum.told(started.elapsed()));
    if sum.n_failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Sum {
    n_seeds: u64,
    n_calls: u64,
    n_bound: u64,
    n_given_up: u64,
    n_failures: u64,
    /// Simulated.
    hours: f64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.n_seeds += 1;
        self.n_calls += report.n_calls;
        self.n_bound += report.n_bound;
        self.n_given_up += report.n_given_up;
        self.hours += report.simulated as f64 / SECOND as f64 / 3600.0;
    }

    fn told(&self, elapsed: Duration) -> String {
        let Sum { n_seeds, n_calls, n_bound, n_given_up, n_failures, hours } = self;
        let rate = hours / (elapsed.as_secs_f64() / 3600.0);
        format!(
            "{n_seeds} seeds, {n_calls} calls, {n_bound} pods bound, {hours:.1} simulated hours ({rate:.0} an hour), \
             {n_given_up} histories undecided, {n_failures} failures"
        )
    }
}

/// The smallest plan that fails.
fn tell_failure(plan: &Plan) {
    let less = plan.minimised(&mut |plan| run(plan).failure.is_some());
    let report = run(&less);
    println!("{} of {} faults are enough, with {} clients:", less.faults.len(), plan.faults.len(), less.n_clients);
    for (at, fault) in &less.faults {
        println!("  {:>8.3} {fault:?}", *at as f64 / SECOND as f64);
    }
    println!("{}\n{}", report.trace.join("\n"), report.failure.unwrap_or_default());
}
