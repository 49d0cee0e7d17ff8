//! Real faults on a real cluster, while clients write and check.
//!
//! Two of the three servers keep their data on small file systems of their own, so that disks can be full or read-only: one in
//! memory, one like a disk's. Each fault is one function: it breaks something, waits until the cluster has done what it should,
//! and mends it. After each round nothing acknowledged is lost and every server votes. One round of all of them is run with the other tests;
//! `COPEPOD_CHAOS_MINUTES=60` goes on with rounds for an hour.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use copepod_api::Timestamp;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    harness::{Cluster, Load, clock, fetch, has_ended, hello_manifest, is_ready, run, string, text},
    writers::Writers,
};

/// How long something stays broken that the cluster must do without: several elections.
const BROKEN: Duration = Duration::from_secs(3);

/// Large enough for the log of a test, small enough to be filled at once.
const DISK: &str = "size=96m,nr_inodes=4096";

type Fault = (&'static str, fn(&Cluster));

/// The only one that a pod is to feel: the one whose shim it is.
const SHIM: &str = "a shim is killed";

const FAULTS: &[Fault] = &[
    ("the leader is killed", the_leader_is_killed),
    ("the leader is stopped and goes on", the_leader_is_stopped_and_goes_on),
    ("the leader is cut off", the_leader_is_cut_off),
    ("the leader hears and is not heard", the_leader_hears_and_is_not_heard),
    ("an agent is killed", an_agent_is_killed),
    ("all servers and agents are killed in turn", all_are_killed_in_turn),
    (SHIM, a_shim_is_killed),
    ("an agent is upgraded under load", an_agent_is_upgraded_under_load),
    ("a disk is full", a_disk_is_full),
    ("a disk has no inodes left", a_disk_has_no_inodes_left),
    ("a disk is read-only", a_disk_is_read_only),
    ("a disk becomes read-only", a_disk_becomes_read_only),
    ("the end of a log is torn", the_end_of_a_log_is_torn),
    ("the middle of a log has rotted", the_middle_of_a_log_has_rotted),
    ("a server runs out of file descriptors", a_server_runs_out_of_file_descriptors),
    ("a server gets no more memory", a_server_gets_no_more_memory),
    ("an agent gets no more memory", an_agent_gets_no_more_memory),
    ("the clock of the leader steps", the_clock_of_the_leader_steps),
];

#[test]
fn faults_while_clients_write() {
    let minutes = std::env::var("COPEPOD_CHAOS_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let cluster = Cluster::up(1, 2);
    for server in ["s2", "s3"] {
        fs::create_dir_all(cluster.directory().join(server)).expect("made");
    }
    let disk = disk_of_s2(&cluster);
    run("truncate", &["-s", "96M", &disk]);
    run("mkfs.ext4", &["-q", &disk]);
    mount_disk_of_s2(&cluster);
    run("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs", &cluster.directory().join("s3").display().to_string()]);
    cluster.ok(&["up", "--servers", "3", "--nodes", "2"]);
    cluster.apply(&hello_manifest(4, "hello"));
    cluster.until_ready("hello", 4);
    let programs = || ["n1", "n2"].into_iter().flat_map(|node| cluster.running_programs(node)).collect::<Vec<_>>();
    loop {
        for (name, fault) in FAULTS {
            let before = programs();
            let writers = Writers::on(&cluster, 2);
            fault(&cluster);
            all_vote(&cluster);
            cluster.until_ready("hello", 4);
            let after = programs();
            let n_disturbed = before.iter().filter(|program| !after.contains(program)).count();
            println!("{name}: {}; pods disturbed: {n_disturbed}", writers.end(&cluster));
            assert_eq!(n_disturbed, usize::from(*name == SHIM), "{name}: containers go on");
            let (file, n) = (cluster.directory().join("chaos.backup"), cluster.items(&["configmaps"]).len());
            cluster.ok(&["backup", &file.display().to_string()]);
            assert!(n > 0);
        }
        if Instant::now() > until {
            return;
        }
    }
}

fn the_leader_is_killed(cluster: &Cluster) {
    let leader = leader(cluster);
    signal(cluster, &leader, Signal::SIGKILL);
    another_leads(cluster, &leader);
    cluster.ok(&["lab", "heal", &leader]);
}

fn the_leader_is_stopped_and_goes_on(cluster: &Cluster) {
    let leader = leader(cluster);
    signal(cluster, &leader, Signal::SIGSTOP);
    another_leads(cluster, &leader);
    thread::sleep(BROKEN);
    signal(cluster, &leader, Signal::SIGCONT);
}

fn the_leader_is_cut_off(cluster: &Cluster) {
    let leader = leader(cluster);
    cluster.ok(&["lab", "partition", &leader]);
    another_leads(cluster, &leader);
    thread::sleep(BROKEN);
    cluster.ok(&["lab", "heal", &leader]);
}

/// A network that fails in one direction: what others say comes through, and nothing goes out.
fn the_leader_hears_and_is_not_heard(cluster: &Cluster) {
    let leader = leader(cluster);
    let rules = "table inet cut { chain output { type filter hook output priority 0; oifname != \"lo\" drop; }; }";
    cluster.in_namespace(&leader, &["nft", rules]);
    another_leads(cluster, &leader);
    thread::sleep(BROKEN);
    cluster.in_namespace(&leader, &["nft", "delete table inet cut"]);
}

/// The programs are replaced, and the agent ends and starts anew, while requests go through its node.
fn an_agent_is_upgraded_under_load(cluster: &Cluster) {
    let address = format!("{}:30080", cluster.node_address("n1"));
    cluster.until("it answers", || fetch(&address, "/").is_ok());
    let load = Load::on(vec![address], "/", 2);
    let newer = cluster.copied_to(&cluster.directory().join("newer"));
    let pid = cluster.process("n1");
    signal(cluster, "n1", Signal::SIGTERM);
    cluster.until_ended(pid);
    thread::sleep(BROKEN);
    let output = newer.output(&["lab", "heal", "n1"]);
    assert!(output.status.success(), "{}", text(&output));
    let runs = format!("/proc/{}/exe", cluster.process("n1"));
    cluster.until("the newer program runs", || fs::read_link(&runs).is_ok_and(|program| program == newer.path));
    cluster.until("the node is ready", || is_ready(&cluster.get(&["nodes", "n1"])));
    let (answers, failures) = load.end();
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}");
}

fn an_agent_is_killed(cluster: &Cluster) {
    killed(cluster, "n1");
    cluster.ok(&["lab", "heal", "n1"]);
}

fn all_are_killed_in_turn(cluster: &Cluster) {
    for member in ["s1", "n1", "s2", "n2", "s3"].repeat(2) {
        killed(cluster, member);
        cluster.ok(&["lab", "heal", member]);
        all_vote(cluster);
    }
    for node in ["n1", "n2"] {
        cluster.until("the node is ready", || is_ready(&cluster.get(&["nodes", node])));
    }
}

/// Its container ends with it, and runs anew.
fn a_shim_is_killed(cluster: &Cluster) {
    let before = cluster.running_pids("n1");
    let program = *before.first().expect("a pod runs there");
    let status = fs::read_to_string(format!("/proc/{program}/status")).expect("it runs");
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent").trim();
    kill(Pid::from_raw(shim.parse().expect("a number")), Signal::SIGKILL).expect("it runs");
    cluster.until("the program ends", || !cluster.running_pids("n1").contains(&program));
    cluster.until("another runs in its place", || cluster.running_pids("n1").len() == before.len());
}

fn a_disk_is_full(cluster: &Cluster) {
    let filler = cluster.directory().join("s3/filler");
    let into = format!("of={}", filler.display());
    // It ends where the disk does.
    let _ = Command::new("dd").args(["if=/dev/zero", &into, "bs=1M"]).output().expect("dd runs");
    thread::sleep(BROKEN);
    fs::remove_file(&filler).expect("removed");
    cluster.ok(&["lab", "heal", "s3"]);
}

fn a_disk_has_no_inodes_left(cluster: &Cluster) {
    let fillers = cluster.directory().join("s3/fillers");
    fs::create_dir_all(&fillers).expect("made");
    let made = (0..).take_while(|number| fs::File::create(fillers.join(number.to_string())).is_ok()).count();
    assert!(made > 0, "the disk had inodes");
    thread::sleep(BROKEN);
    stopped(cluster, "s3");
    cluster.ok(&["lab", "heal", "s3"]);
    cluster.until("it does without, or says what is missing", || {
        has_all_votes(cluster) || cluster.last_words("s3").contains("No space left on device")
    });
    fs::remove_dir_all(&fillers).expect("removed");
    cluster.ok(&["lab", "heal", "s3"]);
}

fn a_disk_is_read_only(cluster: &Cluster) {
    let directory = stopped(cluster, "s3");
    run("mount", &["-o", "remount,ro", &directory.display().to_string()]);
    cluster.ok(&["lab", "heal", "s3"]);
    cluster.until("it says that the disk is read-only", || cluster.last_words("s3").contains("Read-only file system"));
    run("mount", &["-o", "remount,rw", &directory.display().to_string()]);
    cluster.ok(&["lab", "heal", "s3"]);
}

fn disk_of_s2(cluster: &Cluster) -> String {
    cluster.directory().join("disk-of-s2").display().to_string()
}

fn mount_disk_of_s2(cluster: &Cluster) {
    run("mount", &["-o", "loop", &disk_of_s2(cluster), &cluster.directory().join("s2").display().to_string()]);
}

/// What a kernel does when it finds that a file system is damaged, or that its disk fails.
fn a_disk_becomes_read_only(cluster: &Cluster) {
    let (directory, pid) = (cluster.directory().join("s2").display().to_string(), cluster.process("s2"));
    run("mount", &["-o", "remount,abort", &directory]);
    // Others write on, so it has to write too, and does not pretend.
    cluster.until_ended(pid);
    let log = cluster.log("s2");
    assert!(log.contains("Read-only file system"), "{log}");
    run("umount", &[&directory]);
    // It says by its status that there was something to mend.
    let mended = Command::new("e2fsck").args(["-p", &disk_of_s2(cluster)]).output().expect("e2fsck runs");
    assert!(mended.status.code().is_some_and(|code| code < 4), "{}", text(&mended));
    mount_disk_of_s2(cluster);
    cluster.ok(&["lab", "heal", "s2"]);
}

fn the_end_of_a_log_is_torn(cluster: &Cluster) {
    let log = newest_log(&stopped(cluster, "s2"));
    let mut content = fs::read(&log).expect("the log");
    // The mark of a frame and no more: a whole frame behind a torn one would be damage, and is refused.
    let torn = content[14..22].to_vec();
    content.extend(torn);
    fs::write(&log, content).expect("written");
    cluster.ok(&["lab", "heal", "s2"]);
}

fn the_middle_of_a_log_has_rotted(cluster: &Cluster) {
    let directory = stopped(cluster, "s2");
    let log = newest_log(&directory);
    let mut content = fs::read(&log).expect("the log");
    content[40] ^= 0xff;
    fs::write(&log, content).expect("written");
    cluster.ok(&["lab", "heal", "s2"]);
    cluster.until("it says where", || cluster.last_words("s2").contains("offset"));
    // As it says: without its directory it joins again.
    for entry in fs::read_dir(&directory).expect("the server's directory").flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("removed");
    }
    cluster.ok(&["up", "--servers", "3", "--nodes", "2"]);
}

fn a_server_runs_out_of_file_descriptors(cluster: &Cluster) {
    let leader = leader(cluster);
    let pid = format!("--pid={}", cluster.process(&leader));
    run("prlimit", &[&pid, "--nofile=8:"]);
    thread::sleep(BROKEN);
    // Unless it has ended over it; then it is started anew.
    let _ = Command::new("prlimit").args([&pid, "--nofile=1024:"]).output().expect("prlimit runs");
    cluster.ok(&["lab", "heal", &leader]);
}

/// It ends when it is sent something to hold, and the others go on.
fn a_server_gets_no_more_memory(cluster: &Cluster) {
    let leader = leader(cluster);
    let pid = cluster.process(&leader);
    let group = without_memory(pid);
    let content = "a".repeat(1 << 20);
    let large = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: large}}, data: {{a: {content}}}}}");
    cluster.until("it has ended", || {
        // The one that ends it is not answered.
        cluster.try_apply(&large);
        has_ended(pid)
    });
    fs::remove_dir(&group).expect("nothing is left in it");
    another_leads(cluster, &leader);
    cluster.apply(&large);
    cluster.ok(&["delete", "configmap", "large"]);
    cluster.ok(&["lab", "heal", &leader]);
}

/// It ends where its cgroup does, and the containers are in others.
fn an_agent_gets_no_more_memory(cluster: &Cluster) {
    let pid = cluster.process("n1");
    let group = without_memory(pid);
    let pods = cluster.pods("hello");
    let here = pods.iter().find(|pod| pod["spec"]["nodeName"] == "n1").expect("a pod of the node");
    let name = string(&here["metadata"]["name"]);
    cluster.until("it has ended", || {
        // The one that ends it is not answered.
        cluster.try_run(&["logs", &name]);
        has_ended(pid)
    });
    fs::remove_dir(&group).expect("nothing is left in it");
    cluster.ok(&["lab", "heal", "n1"]);
    cluster.until("the node is ready", || is_ready(&cluster.get(&["nodes", "n1"])));
}

/// What it has it keeps, and the next page that it asks for ends it.
fn without_memory(pid: i32) -> PathBuf {
    let is_unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (root, limit) = match is_unified {
        true => ("/sys/fs/cgroup", "memory.max"),
        false => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    };
    let group = Path::new(root).join("copepod-chaos");
    fs::create_dir_all(&group).expect("made");
    fs::write(group.join(limit), "0").expect("limited");
    fs::write(group.join("cgroup.procs"), pid.to_string()).expect("moved");
    group
}

/// To and fro, as clocks do that are set wrongly and then set right; back by less than the hour for which certificates were
/// valid before they were made. All servers get clocks that can be set, for nobody knows which of them will lead.
fn the_clock_of_the_leader_steps(cluster: &Cluster) {
    let clocks = |server: &str| cluster.directory().join(format!("clock-of-{server}"));
    for server in ["s1", "s2", "s3"] {
        set_clock(&clocks(server), 0);
        stopped(cluster, server);
        let mut heal = cluster.command(&["lab", "heal", server]);
        heal.env("LD_PRELOAD", clock()).env("COPEPOD_TEST_CLOCK", clocks(server));
        let output = heal.output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        all_vote(cluster);
    }
    let leader = leader(cluster);
    for (step, expected) in [(-45, 0.0), (20, 20.0), (0, 20.0)] {
        set_clock(&clocks(&leader), step);
        cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: stepped}}");
        let made: Timestamp =
            string(&cluster.get(&["configmap", "stepped"])["metadata"]["creationTimestamp"]).parse().expect("a time");
        let minutes = (made.duration_since(Timestamp::now()).as_secs_f64() / 60.0).round();
        assert_eq!(
            minutes, expected,
            "{step}: what is written never says an earlier time than what was written before"
        );
        thread::sleep(BROKEN);
        assert_eq!(told_leader(cluster).as_ref(), Some(&leader), "who leads is no matter of clocks");
        cluster.ok(&["delete", "configmap", "stepped"]);
    }
    for server in ["s1", "s2", "s3"] {
        stopped(cluster, server);
        cluster.ok(&["lab", "heal", server]);
        all_vote(cluster);
    }
}

/// At once, so that nobody reads half of it.
fn set_clock(file: &Path, minutes: i32) {
    let beside = file.with_extension("new");
    fs::write(&beside, (60 * minutes).to_string()).expect("written");
    fs::rename(beside, file).expect("set");
}

/// Kills a server, to do something to its directory.
fn stopped(cluster: &Cluster, server: &str) -> PathBuf {
    killed(cluster, server);
    cluster.directory().join(server)
}

/// Kills a server or an agent. One that is dying is up for those who would heal it.
fn killed(cluster: &Cluster, member: &str) {
    let pid = cluster.process(member);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    cluster.until_ended(pid);
}

fn newest_log(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory.join("raft")).expect("the log's directory").flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().expect("a log")
}

fn leader(cluster: &Cluster) -> String {
    let mut leader = None;
    cluster.until("a server leads", || {
        leader = told_leader(cluster);
        leader.is_some()
    });
    leader.expect("found")
}

fn told_leader(cluster: &Cluster) -> Option<String> {
    let list = String::from_utf8_lossy(&cluster.try_run(&["server", "list"]).stdout).into_owned();
    let line = list.lines().find(|line| line.contains(" leader "))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn another_leads(cluster: &Cluster, than: &str) {
    cluster.until("another server leads", || told_leader(cluster).is_some_and(|leader| leader != than));
}

fn all_vote(cluster: &Cluster) {
    cluster.until("all servers vote", || has_all_votes(cluster));
}

fn has_all_votes(cluster: &Cluster) -> bool {
    let list = String::from_utf8_lossy(&cluster.try_run(&["server", "list"]).stdout).into_owned();
    list.contains("3 of 3 voting servers answer") && list.contains(" leader ")
}

fn signal(cluster: &Cluster, member: &str, signal: Signal) {
    kill(Pid::from_raw(cluster.process(member)), signal).expect("it runs");
}
