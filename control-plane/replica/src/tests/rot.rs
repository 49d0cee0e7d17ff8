//! Bytes flip that were durable.

use super::*;
use crate::{Sent, SnapshotError};

/// Flips a byte near the end of the newest file whose name ends so.
fn rot(disk: &FakeDisk, end: &str) {
    disk.with(|disk| {
        let content = disk.files.iter_mut().rfind(|(name, _)| name.ends_with(end)).unwrap().1;
        let place = content.len() - 10;
        content[place] ^= 1;
    });
}

fn newest(disk: &FakeDisk, end: &str) -> Vec<u8> {
    disk.with(|disk| disk.files.iter().rfind(|(name, _)| name.ends_with(end)).unwrap().1.clone())
}

#[tokio::test]
async fn a_server_that_lost_the_end_of_its_log_does_not_start() {
    let mut cluster = Cluster::of(1).await;
    write(&cluster.leader().await, "a").await;
    let disk = cluster.disks[&1].tear(0);
    cluster.stop(1).await;
    rot(&disk, ".log");
    let refusal = cluster.start(1, disk, false).err();
    assert!(matches!(refusal, Some(OpenError::Log(LogError::Damaged { .. }))), "{refusal:?}");
}

#[tokio::test]
async fn a_snapshot_that_rotted_on_the_leader_is_written_anew() {
    let mut cluster = Cluster::of(2).await;
    write(&cluster.leader().await, "a").await;
    if cluster.leader_id().await != 1 {
        cluster.leader().await.transfer_leadership(Some(1)).await;
    }
    until(|| cluster.local.leader().is_some_and(|(id, _)| id == 1)).await;
    rot(&cluster.disks[&1], ".snapshot");
    let rotten = newest(&cluster.disks[&1], ".snapshot");
    let refused = cluster.replica(2).receive_snapshot(Bytes::new(), &mut &rotten[..]);
    assert_eq!(Sent::of(&refused), Sent::Damaged);
    // Who has nothing needs a snapshot.
    cluster.join(3).await;
    let replica = cluster.replica(3);
    until(|| has(&replica, "a")).await;
}

/// A receiver that is away, or has no space, says nothing of the file.
#[test]
fn only_what_came_damaged_is_doubted() {
    let full = Err(SnapshotError::Io(std::io::ErrorKind::StorageFull.into()));
    assert_eq!((Sent::of(&Ok(())), Sent::of(&full)), (Sent::Arrived, Sent::Lost));
}
