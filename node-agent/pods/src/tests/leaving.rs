//! How pods end.

use serde_json::json;

use super::life::{Life, one, story};

#[test]
fn a_leaving_pod_waits_to_be_out_of_the_data_path() {
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "delete 30\nuntil 4s\nstatus", "Running Ready a=Running(0)");
    story(&mut life, "released\nuntil 5s", "4.0s stop a 30s\n4.0s tear down");

    // Cut off from the control plane, it waits no longer than its bound.
    let mut life = Life::of(one());
    life.tell("until 0s");
    story(&mut life, "delete 30\nuntil 30s", "10.0s stop a 30s\n10.0s tear down");

    // Nobody sends traffic to a pod that the control plane no longer knows, or that is deleted by force.
    for how in ["vanish", "delete 0"] {
        let mut life = Life::of(one());
        life.tell("until 0s");
        let grace = if how == "vanish" { 30 } else { 0 };
        story(&mut life, &format!("{how}\nuntil 1s"), &format!("0.0s stop a {grace}s\n0.0s tear down"));
    }
}

#[test]
fn a_second_deletion_with_less_patience_is_heard() {
    let mut life = Life::of(one());
    life.tell("until 0s\na ignores signals");
    story(&mut life, "delete 300\nreleased\nuntil 5s\ndelete 10\nuntil 6s", "0.0s stop a 300s\n5.0s stop a 5s");
}

#[test]
fn a_pod_over_its_deadline_fails_for_good() {
    let mut life = Life::of(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "x:1"}]}));
    life.tell("until 1s");
    story(
        &mut life,
        "until 9s\nstatus",
        "5.0s condemn DeadlineExceeded\n5.0s stop a 30s\n5.0s stop sandbox\nFailed DeadlineExceeded a=Error:143(0)",
    );
}
