//! A fixed set of seeds, and mistakes made on purpose.

use crate::{Mutation, Plan, run};

/// Seeds that each run of the tests tries.
const SEEDS: u64 = 120;

/// Within so many seeds each mistake must be found.
const BUDGET: u64 = 150;

#[test]
fn clusters_keep_their_promises() {
    for seed in 0..SEEDS {
        let report = run(&Plan::of(seed, 0, None));
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}\n{}", report.trace.join("\n"));
        }
        assert!(report.n_calls > 10, "seed {seed}: the clients did next to nothing");
    }
}

#[test]
fn a_seed_is_a_whole_run() {
    for seed in 0..5 {
        let plan = Plan::of(seed, 0, None);
        assert_eq!(run(&plan).hash, run(&plan).hash, "{seed}");
    }
}

#[test]
fn every_mistake_is_found() {
    for mutation in Mutation::ALL {
        let found = (0..BUDGET).find(|seed| run(&Plan::of(*seed, 0, Some(mutation))).failure.is_some());
        assert!(found.is_some(), "{mutation:?} is not found by {BUDGET} seeds");
    }
}

#[test]
fn a_failing_plan_becomes_smaller_and_fails_still() {
    let mutation = Some(Mutation::SkipSync);
    let fails = |plan: &Plan| run(plan).failure.is_some();
    let plan = (0..BUDGET).map(|seed| Plan::of(seed, 0, mutation)).find(|plan| fails(plan)).unwrap();
    let less = plan.minimised(&mut |plan| fails(plan));
    assert!(fails(&less) && less.faults.len() <= plan.faults.len());
}
