//! The heaps find what a look at all nodes finds, and look at few.

use copepod_api::{Key, Timestamp, k8s_openapi::api::core::v1::Pod, resource};
use proptest::prelude::*;

use super::World;
use crate::{
    contest::Contest,
    place::{Counts, candidates, changed_looks, look},
    shape::Shape,
    table::Table,
};

/// A world's table, and the shape of its first pod that has no node.
fn table(fixture: &str, pod: &str) -> (World, Table, Shape) {
    let mut world = World::read(fixture);
    world.scheduler.schedule(&world.view, &[], Timestamp::UNIX_EPOCH);
    let object = world.view.object(&Key::new(resource::PODS, "default", pod)).unwrap();
    let shape = Shape::of(&object.decoded::<Pod>().unwrap());
    let table = std::mem::take(&mut world.scheduler.table);
    (world, table, shape)
}

/// Where so many pods go, by heaps or by a look at all nodes for each.
fn places(fixture: &str, n_pods: usize, by_heaps: bool) -> Vec<usize> {
    let (world, mut table, shape) = table(fixture, "new-0");
    let mut counts = Counts::of(&table, &world.view, &shape);
    let candidates = candidates(&mut table, &shape, &counts);
    let mut contest = Contest::new(&counts.scene(&table, &shape), &candidates);
    let place = |_| match by_heaps {
        true => contest.place(&mut table, &shape, &mut counts),
        false => look(&mut table, &shape, &mut counts, &candidates),
    };
    (0..n_pods).map_while(place).collect()
}

fn worlds() -> impl Strategy<Value = String> {
    let node = (1..4u32, 0..4u32, 0..3u32, prop::bool::ANY);
    let nodes = prop::collection::vec(node, 1..14).prop_map(|nodes| {
        let line = |(number, (cpu, zone, rack, has_zone)): (usize, (u32, u32, u32, bool))| {
            let zone = if has_zone { format!(" zone=z{zone}") } else { String::new() };
            format!("node n{number} cpu={cpu} rack=r{rack}{zone}")
        };
        nodes.into_iter().enumerate().map(line).collect::<Vec<_>>().join(" | ")
    });
    let rules = prop::sample::subsequence(
        vec![
            "cpu=200m",
            "apart",
            "near=new",
            "near=old",
            "skew=topology.kubernetes.io/zone",
            "skew=kubernetes.io/hostname",
            "skew=rack",
            "port=80",
            "rack=r1",
            "rather=new:rack",
            "rather=old:kubernetes.io/hostname",
            "rather=new:topology.kubernetes.io/zone",
            "wish=topology.kubernetes.io/zone",
            "wish=kubernetes.io/hostname",
        ],
        0..5,
    );
    let old = prop::collection::vec(0..14usize, 0..6);
    (nodes, rules, old).prop_map(|(nodes, rules, old)| {
        let old = old.iter().enumerate().map(|(number, node)| {
            let app = ["old", "new"][number % 2];
            format!(" | pods {app}-{number} 1 app={app} on=n{node} cpu=100m{}", if number == 3 { " apart" } else { "" })
        });
        format!("{nodes}{} | pods new 1 {}", old.collect::<String>(), rules.join(" "))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn heaps_place_as_a_look_at_all_nodes_does(world in worlds()) {
        prop_assert_eq!(places(&world, 30, true), places(&world, 30, false), "{}", world);
    }
}

#[test]
fn a_pod_more_is_a_node_or_two_more_to_look_at() {
    const NODES: usize = 300;
    let nodes: Vec<String> = (0..NODES).map(|number| format!("node n{number} zone=z{}", number % 3)).collect();
    let nodes = nodes.join(" | ");
    for rules in ["cpu=100m", "apart", "skew=topology.kubernetes.io/zone", "skew=kubernetes.io/hostname", "near=new"] {
        let before = changed_looks();
        let n_placed = places(&format!("{nodes} | pods new 1 {rules}"), NODES, true).len();
        let looks = changed_looks() - before;
        // One look at all nodes places the world's own pod, one sets the heaps up, and the first of a company rules all
        // other nodes out.
        assert!(looks <= 3 * NODES + 4 * n_placed, "{rules}: {looks} looks for {n_placed} pods");
        assert!(n_placed >= 1, "{rules}");
    }
}
