//! A fixed set of seeds, and mistakes made on purpose.

use crate::{Mutation, Plan, run};

/// Seeds that each run of the tests tries.
const SEEDS: u64 = 40;

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
    for seed in 0..3 {
        let plan = Plan::of(seed, 0, None);
        assert_eq!(run(&plan).hash, run(&plan).hash, "{seed}");
    }
}

#[test]
fn every_mistake_in_the_log_is_found() {
    are_found(false);
}

#[test]
fn every_mistake_with_pods_is_found() {
    are_found(true);
}

fn are_found(is_about_nodes: bool) {
    for mutation in Mutation::ALL.into_iter().filter(|it| it.is_about_nodes() == is_about_nodes) {
        let found = (0..mutation.budget()).find(|seed| run(&Plan::of(*seed, 0, Some(mutation))).failure.is_some());
        assert!(found.is_some(), "{mutation:?} is not found by {} seeds", mutation.budget());
    }
}

#[test]
fn a_failing_plan_becomes_smaller_and_fails_still() {
    let mutation = Some(Mutation::SkipSync);
    let fails = |plan: &Plan| run(plan).failure.is_some();
    let plan = (0..mutation.map_or(0, Mutation::budget))
        .map(|seed| Plan::of(seed, 0, mutation))
        .find(|plan| fails(plan))
        .unwrap();
    let less = plan.minimised(&mut |plan| fails(plan));
    assert!(fails(&less) && less.faults.len() <= plan.faults.len());
}
