//! What the rooms take, measured one by one in this process.
//!
//! `copepod bench` measures whole clusters over the public API; here is what lies behind its figures. Each room has a file
//! with a function that measures it and gives figures; `ROOMS` lists them. Nothing is asserted: what must not
//! grow is counted in tests.

mod figures;
mod heap;
mod nodes;
mod objects;
mod replica;
mod scheduler;
mod snapshots;
mod store;
mod yardsticks;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::figures::{Baseline, Figure};

/// A room, and what measures it.
struct Room {
    name: &'static str,
    measure: fn(&mut dyn FnMut(Figure)),
}

const ROOMS: &[Room] = &[
    Room { name: "store", measure: store::measure },
    Room { name: "replica", measure: replica::measure },
    Room { name: "memory", measure: replica::memory },
    Room { name: "snapshots", measure: snapshots::measure },
    Room { name: "scheduler", measure: scheduler::measure },
    Room { name: "nodes", measure: nodes::measure },
];

/// Measures the rooms of the house and prints what they take
#[derive(Parser)]
struct Arguments {
    /// Rooms to measure; all of them if none is named
    #[arg(value_parser = ROOMS.iter().map(|room| room.name).collect::<Vec<_>>())]
    rooms: Vec<String>,
    /// Print a line of JSON a figure instead of a table
    #[arg(long)]
    json: bool,
    /// Figures of an earlier run (lines of JSON), to print ratios to
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Read figures (lines of JSON) from standard input and print them, instead of measuring
    #[arg(long, conflicts_with = "rooms")]
    show: bool,
    /// Be the server that another such process measures
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("COPEPOD_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    if let Some(data_dir) = arguments.serve {
        return nodes::server::run(data_dir);
    }
    let baseline = match arguments.baseline.as_deref().map(Baseline::read).transpose() {
        Ok(baseline) => baseline.unwrap_or_default(),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut tell = |figure: Figure| match arguments.json {
        true => println!("{}", figure.json()),
        false => println!("{}", figure.line(&baseline)),
    };
    if arguments.show {
        std::io::stdin().lines().map_while(Result::ok).filter_map(|line| Figure::parse(&line)).for_each(tell);
        return ExitCode::SUCCESS;
    }
    for room in ROOMS {
        if arguments.rooms.is_empty() || arguments.rooms.iter().any(|name| name == room.name) {
            (room.measure)(&mut tell);
        }
    }
    ExitCode::SUCCESS
}
