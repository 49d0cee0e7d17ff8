//! Three replicas in one process, on a network that can be cut and disks that can be torn.

pub mod disk;
mod rot;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use copepod_api::{Body, Expect, Key, Op, Revision, Timestamp, Txn, resource::CONFIG_MAPS};
use copepod_store::Cursor;
use prost_raft::Message as _;
use raft::prelude::{Message, MessageType};
use serde_json::json;

use self::disk::FakeDisk;
use crate::{ChangeError, Config, Local, Member, OpenError, Replica, log::LogError};

struct Cluster {
    local: Arc<Local>,
    disks: BTreeMap<u64, FakeDisk>,
    contacts: Vec<Member>,
}

impl Cluster {
    async fn of(n: u64) -> Cluster {
        let mut cluster = Cluster { local: Arc::default(), disks: BTreeMap::new(), contacts: Vec::new() };
        cluster.start(1, FakeDisk::default(), true).unwrap();
        for id in 2..=n {
            cluster.join(id).await;
        }
        cluster
    }

    fn start(&mut self, id: u64, disk: FakeDisk, bootstrap: bool) -> Result<(), OpenError> {
        let config = Config {
            id,
            data_dir: PathBuf::from("/fake"),
            name: format!("s{id}"),
            address: format!("s{id}:1"),
            bootstrap,
            contacts: self.contacts.clone(),
        };
        let replica = Replica::on(config, disk.clone(), self.local.wire(id), None)?;
        self.disks.insert(id, disk);
        self.local.add(id, replica);
        Ok(())
    }

    async fn join(&mut self, id: u64) {
        let leader = self.leader().await;
        let member = leader.add_member(&format!("s{id}"), &format!("s{id}:1")).await.unwrap();
        assert_eq!(member.id, id);
        self.contacts = leader.members();
        self.start(id, FakeDisk::default(), false).unwrap();
        until(|| leader.members().iter().any(|member| member.id == id && !member.learner)).await;
    }

    fn replica(&self, id: u64) -> Replica {
        self.local.get(id).expect("it runs")
    }

    fn cut(&self, id: u64) {
        self.local.cut(id);
    }

    fn heal(&self, id: u64) {
        self.local.heal(id);
    }

    async fn stop(&self, id: u64) {
        self.local.remove(id).expect("it runs").shutdown().await;
    }

    /// Like the loss of power: restarts from what is on the disk.
    async fn restart(&mut self, id: u64, kept: usize) {
        let torn = self.disks[&id].tear(kept);
        self.stop(id).await;
        self.start(id, torn, false).unwrap();
    }

    /// One that leads and is not cut off.
    async fn leader(&self) -> Replica {
        until(|| self.local.leader().is_some()).await;
        self.local.leader().expect("it led a moment ago").1
    }

    async fn leader_id(&self) -> u64 {
        let leader = self.leader().await;
        leader.role().borrow().leader.as_ref().unwrap().id
    }
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), met).await.expect("the condition is met in the end");
}

fn key(name: &str) -> Key {
    Key::new(CONFIG_MAPS, "d", name.to_owned())
}

fn put(name: &str, data: &str) -> Txn {
    let object = json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "data": {"a": data}});
    Txn { ops: vec![Op::Put { key: key(name), body: Body::encode(&object), expect: Expect::Any }] }
}

async fn write(replica: &Replica, name: &str) -> Revision {
    write_data(replica, name, "").await.unwrap()
}

async fn write_data(replica: &Replica, name: &str, data: &str) -> Result<Revision, crate::ProposeError> {
    let term = replica.role().borrow().term;
    let (txn, at) = (put(name, data), Timestamp::UNIX_EPOCH);
    let base = replica.view();
    let next = base.apply(&txn, at).unwrap();
    replica.propose(term, txn, at, &base, next).await.unwrap()
}

fn has(replica: &Replica, name: &str) -> bool {
    replica.view().object(&key(name)).is_some()
}

#[tokio::test]
async fn what_is_written_on_the_leader_is_read_everywhere() {
    let cluster = Cluster::of(3).await;
    let revision = write(&cluster.leader().await, "a").await;
    for id in 1..=3 {
        assert!(cluster.replica(id).fresh().await.unwrap().object(&key("a")).is_some());
        assert_eq!(cluster.replica(id).reached(revision).await.unwrap().revision(), revision);
    }
}

#[tokio::test]
async fn a_watch_sees_each_change_once_and_resumes() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let start = leader.view().revision();
    let mut cursor = leader.watch(Some(CONFIG_MAPS), start);
    write(&leader, "a").await;
    write(&leader, "b").await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(cursor.next().await.unwrap().into_iter().map(|event| event.object.key.name().to_owned()));
    }
    assert_eq!(seen, ["a", "b"]);
    assert_eq!(cursor.position(), leader.view().revision());
    let mut resumed = leader.watch(None, start.next());
    assert_eq!(resumed.next().await.unwrap()[0].object.key.name(), "b");
}

#[tokio::test]
async fn another_leader_is_found_and_nothing_acknowledged_is_lost() {
    let cluster = Cluster::of(3).await;
    let first = cluster.leader_id().await;
    write(&cluster.leader().await, "a").await;
    cluster.cut(first);
    until(|| !cluster.replica(first).role().borrow().leading).await;
    let second = cluster.leader().await;
    write(&second, "b").await;
    cluster.heal(first);
    until(|| has(&cluster.replica(first), "a") && has(&cluster.replica(first), "b")).await;
}

#[tokio::test]
async fn a_write_without_a_majority_is_not_acknowledged() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let id = cluster.leader_id().await;
    (1..=3).filter(|other| *other != id).for_each(|other| cluster.cut(other));
    assert!(write_data(&leader, "a", "").await.is_err());
    let term = leader.role().borrow().term;
    let base = leader.view();
    let next = base.apply(&put("b", ""), Timestamp::UNIX_EPOCH).unwrap();
    let refused = leader.propose(term, put("b", ""), Timestamp::UNIX_EPOCH, &base, next).await.unwrap();
    assert_eq!(refused, Err(crate::ProposeError::NotLeader));
}

#[tokio::test]
async fn all_servers_come_back_from_their_disks() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    for number in 0..50 {
        write(&leader, &format!("o{number}")).await;
    }
    for id in 1..=3 {
        // A different part of the unsynchronised end survives on each.
        cluster.restart(id, id as usize * 3).await;
    }
    let leader = cluster.leader().await;
    for number in 0..50 {
        assert!(has(&leader, &format!("o{number}")), "{number}");
    }
    assert_eq!(leader.members().len(), 3);
    write(&leader, "after").await;
}

#[tokio::test]
async fn a_server_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::of(2).await;
    cluster.join(3).await;
    let leader_id = cluster.leader_id().await;
    let away = (1..=3).find(|id| *id != leader_id).unwrap();
    cluster.stop(away).await;
    let leader = cluster.leader().await;
    let large = "x".repeat(64 * 1024);
    for number in 0..1400 {
        write_data(&leader, &format!("o{}", number % 20), &large).await.unwrap();
    }
    let disk = cluster.disks[&leader_id].clone();
    until(|| {
        disk.with(|disk| {
            disk.files.keys().any(|name| name.ends_with(".snapshot") && !name.starts_with("00000000000000000001."))
        })
    })
    .await;
    let disk = cluster.disks[&away].clone();
    cluster.start(away, disk, false).unwrap();
    let replica = cluster.replica(away);
    let revision = leader.view().revision();
    until(|| replica.view().revision() >= revision).await;
    assert!(has(&replica, "o19"));
    // Watches from before the snapshot are told to list again.
    let mut cursor = replica.watch(Some(CONFIG_MAPS), Revision(1));
    assert!(cursor.next().await.is_err());
}

#[tokio::test]
async fn a_server_that_was_away_for_a_moment_gets_what_it_missed_from_the_log() {
    let mut cluster = Cluster::of(2).await;
    cluster.join(3).await;
    let leader_id = cluster.leader_id().await;
    let away = (1..=3).find(|id| *id != leader_id).unwrap();
    let disk = cluster.disks[&away].clone();
    cluster.stop(away).await;
    let leader = cluster.leader().await;
    let snapshots = |disk: &FakeDisk| {
        disk.with(|disk| disk.files.keys().filter(|name| name.ends_with(".snapshot")).cloned().collect::<Vec<_>>())
    };
    let before = snapshots(&cluster.disks[&leader_id]);
    // More than memory keeps, and not enough for a snapshot.
    let large = "x".repeat(64 * 1024);
    for number in 0..96 {
        write_data(&leader, &format!("o{number}"), &large).await.unwrap();
    }
    cluster.start(away, disk, false).unwrap();
    let replica = cluster.replica(away);
    until(|| replica.view().revision() >= leader.view().revision()).await;
    assert!(has(&replica, "o0") && has(&replica, "o95"));
    assert_eq!(snapshots(&cluster.disks[&leader_id]), before);
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_was_sent_is_refused_and_leaves_nothing() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let disk = cluster.disks[&1].clone();
    let files = |disk: &FakeDisk| disk.with(|disk| disk.files.clone());
    let mut data = files(&disk).into_iter().find(|(name, _)| name.ends_with(".snapshot")).unwrap().1;
    let middle = data.len() / 2;
    data[middle] ^= 1;
    let before = files(&disk);
    assert!(leader.receive_snapshot(Bytes::new(), &mut &data[..]).is_err());
    assert!(leader.receive_snapshot(Bytes::new(), &mut &data[..middle]).is_err());
    assert_eq!(files(&disk), before);
}

#[tokio::test]
async fn a_server_that_lost_its_disk_joins_again_as_another_and_only_while_its_name_is_silent() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let lost = (1..=3).find(|id| *id != leader.role().borrow().leader.as_ref().unwrap().id).unwrap();
    let name = format!("s{lost}");
    assert_eq!(leader.add_member(&name, "s4:1").await, Err(ChangeError::Alive(name.clone())));
    cluster.stop(lost).await;
    let mut joined = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while joined.is_none() && std::time::Instant::now() < deadline {
        joined = leader.add_member(&name, "s4:1").await.ok();
    }
    assert_eq!(joined.map(|member| (member.id, member.learner)), Some((4, true)));
    cluster.contacts = leader.members();
    cluster.start(4, FakeDisk::default(), false).unwrap();
    until(|| leader.members().iter().any(|member| member.id == 4 && !member.learner)).await;
    assert_eq!(leader.members().len(), 3);
}

#[tokio::test]
async fn what_is_meant_for_another_id_is_not_taken() {
    let cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let term = leader.role().borrow().term;
    let mut message = Message { from: 2, to: 7, term: term + 5, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppendResponse);
    leader.receive(vec![message.encode_to_vec().into()]);
    write(&leader, "a").await;
    assert_eq!(leader.role().borrow().term, term);
}

#[tokio::test]
async fn a_member_is_not_removed_where_no_majority_would_be_left() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let own = leader.role().borrow().leader.as_ref().unwrap().id;
    let others: Vec<u64> = (1..=3).filter(|id| *id != own).collect();
    cluster.cut(others[0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let outcome = leader.remove_member(others[1]).await;
    assert!(matches!(outcome, Err(ChangeError::NoMajority { .. })), "{outcome:?}");
    leader.remove_member(others[0]).await.unwrap();
    write(&leader, "a").await;
}

#[tokio::test]
async fn a_member_can_be_removed_but_not_the_last() {
    let cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let other = (1..=2).find(|id| *id != leader.role().borrow().leader.as_ref().unwrap().id).unwrap();
    leader.remove_member(other).await.unwrap();
    assert_eq!(leader.members().len(), 1);
    let own = leader.members()[0].id;
    assert_eq!(leader.remove_member(own).await, Err(crate::ChangeError::LastVoter));
    write(&leader, "a").await;
}

#[tokio::test]
async fn who_was_removed_while_away_is_told_and_who_joined_meanwhile_is_not() {
    let mut cluster = Cluster::of(4).await;
    let leader = cluster.leader().await;
    let own = leader.role().borrow().leader.as_ref().unwrap().id;
    let others: Vec<u64> = (1..=4).filter(|id| *id != own).collect();
    let (away, lagging) = (others[0], others[1]);
    let disk = cluster.disks[&away].clone();
    cluster.stop(away).await;
    leader.remove_member(away).await.unwrap();
    cluster.start(away, disk, false).unwrap();
    let back = cluster.replica(away);
    until(|| back.members().iter().all(|member| member.id != away)).await;
    assert_eq!(back.members().len(), 3, "it knows who stays");
    cluster.stop(away).await;

    // One that has not heard of the fifth must not turn it away.
    cluster.cut(lagging);
    let added = leader.add_member("s5", "s5:1").await;
    cluster.heal(lagging);
    assert_eq!(added.map(|member| member.id), Ok(5));
    cluster.contacts = leader.members();
    cluster.start(5, FakeDisk::default(), false).unwrap();
    let fifth = cluster.replica(5);
    until(|| fifth.members().iter().any(|member| member.id == 5 && !member.learner)).await;
    until(|| cluster.replica(lagging).members() == fifth.members()).await;
}

#[tokio::test]
async fn leadership_can_be_handed_over() {
    let cluster = Cluster::of(3).await;
    let (first, leader) = (cluster.leader_id().await, cluster.leader().await);
    leader.transfer_leadership(None).await;
    until(|| !leader.role().borrow().leading).await;
    assert_ne!(cluster.leader_id().await, first);
}

#[tokio::test]
async fn what_the_proposer_computed_is_adopted() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let (term, at) = (leader.role().borrow().term, Timestamp::UNIX_EPOCH);
    let mut view = leader.view();
    let mut committed = Vec::new();
    for name in ["a", "b", "c"] {
        let next = view.apply(&put(name, ""), at).unwrap();
        let ahead = next.0.clone();
        committed.push(leader.propose(term, put(name, ""), at, &view, next));
        view = ahead;
    }
    for outcome in committed {
        outcome.await.unwrap().unwrap();
    }
    assert!(leader.view().is(&view));
}

/// A thousand writes that wait for one sync are one more append, one more sync, and one more round of whoever watches.
#[tokio::test]
async fn writes_that_wait_together_are_written_and_seen_together() {
    const WRITES: usize = 900;
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let (term, at) = (leader.role().borrow().term, Timestamp::UNIX_EPOCH);
    let disk = cluster.disks[&1].clone();
    let mut cursor = leader.watch(None, leader.view().revision());
    let before = disk.with(|disk| (disk.n_appends, disk.n_syncs));
    let held = disk.hold();
    let (mut view, mut committed) = (leader.view(), Vec::new());
    for number in 0..WRITES {
        let txn = put(&format!("o{number}"), "");
        let next = view.apply(&txn, at).unwrap();
        let ahead = next.0.clone();
        committed.push(leader.propose(term, txn, at, &view, next));
        view = ahead;
    }
    drop(held);
    for outcome in committed {
        outcome.await.unwrap().unwrap();
    }
    // The first may have been on its way when the others came, and a round may have been under way.
    let after = disk.with(|disk| (disk.n_appends, disk.n_syncs));
    assert!(after.0 - before.0 <= 3 && after.1 - before.1 <= 3, "{before:?} {after:?}");
    let (mut n_seen, mut n_rounds) = (0, 0);
    while n_seen < WRITES {
        n_seen += cursor.next().await.unwrap().len();
        n_rounds += 1;
    }
    assert!(n_rounds <= 4, "{n_rounds}");
}

/// What is computed ahead may rest on a transaction that is refused in the end. The revisions can agree all the same.
#[tokio::test]
async fn a_state_that_was_computed_from_another_one_is_not_adopted() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let before = leader.view();
    write(&leader, "a").await;

    let term = leader.role().borrow().term;
    let at = Timestamp::UNIX_EPOCH;
    let mut refused = put("b", "");
    refused.ops.push(Op::Check { key: key("a"), expect: Expect::Absent });
    let next = before.apply(&refused, at).unwrap();
    let with_b = next.0.clone();
    let outcome = leader.propose(term, refused, at, &before, next).await.unwrap();
    assert!(matches!(outcome, Err(crate::ProposeError::Refused(_))), "{outcome:?}");

    let next = with_b.apply(&put("c", ""), at).unwrap();
    leader.propose(term, put("c", ""), at, &with_b, next).await.unwrap().unwrap();
    assert!(has(&leader, "a") && !has(&leader, "b") && has(&leader, "c"));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    write(&leader, "a").await;
    let disk = cluster.disks[&1].clone();
    disk.with(|disk| disk.full = true);
    let refusal = write_data(&leader, "b", "").await.unwrap_err();
    assert!(refusal.to_string().contains("cannot be written"), "{refusal}");
    disk.with(|disk| disk.full = false);
    let leader = cluster.leader().await;
    until(|| leader.role().borrow().leading).await;
    assert!(has(&leader, "a"));
    write(&leader, "c").await;
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_refused_with_its_place() {
    let mut cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    for name in ["a", "b", "c"] {
        write(&leader, name).await;
    }
    let torn = cluster.disks[&1].tear(0);
    cluster.stop(1).await;
    let place = torn.with(|disk| {
        let content = disk.files.iter_mut().find(|(name, _)| name.ends_with(".log")).unwrap().1;
        let at = content.windows(3).position(|part| part == b"\"a\"").unwrap();
        content[at] ^= 1;
        at
    });
    match cluster.start(1, torn, false) {
        Err(OpenError::Log(LogError::Damaged { path, offset, .. })) => {
            assert!(path.to_string_lossy().ends_with(".log"));
            assert!(offset < place);
        }
        other => panic!("expected a refusal, got {:?}", other.err()),
    }
}

#[tokio::test]
async fn two_processes_cannot_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let config = Config {
            id: 1,
            data_dir: directory.path().to_owned(),
            name: "s1".to_owned(),
            address: "s1:1".to_owned(),
            bootstrap: true,
            contacts: Vec::new(),
        };
        Replica::open(config, Arc::<Local>::default().wire(1))
    };
    let first = open().unwrap();
    assert!(matches!(open().err(), Some(OpenError::Locked { .. })));
    until(|| first.role().borrow().leading).await;
    write(&first, "a").await;
    first.shutdown().await;
    let again = open().unwrap();
    until(|| again.role().borrow().leading).await;
    assert!(has(&again, "a"));
}
