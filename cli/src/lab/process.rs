//! Processes of the lab: started so that they outlive the terminal, found again by id and start time.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Lab, Ledger, Member, Role, ledger::Process};
use crate::failure::{Doing, Failure, Outcome};

/// How long a process may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How a member comes into the cluster.
pub struct Ticket {
    /// `host:port`.
    pub server: String,
    pub token: String,
}

/// Starts a member in its namespace. The token goes through the environment: arguments are for everybody to see.
pub fn start(lab: &Lab, ledger: &mut Ledger, member: &Member, ticket: Option<&Ticket>) -> Outcome {
    for directory in [&member.directory, &member.run_directory, &lab.directory().join("log")] {
        fs::create_dir_all(directory).doing(directory.display())?;
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(&member.log).doing(member.log.display())?;
    let program = std::env::current_exe().doing("the path of this program")?;
    let mut command = Command::new("setsid");
    command.arg("nsenter").arg(format!("--net=/run/netns/{}", member.namespace)).arg("--").arg(program);
    match member.role {
        Role::Server => {
            command.args(["server", "--name", &member.name, "--data-dir"]).arg(&member.directory);
            command.args(["--listen", &member.endpoint(), "--advertise", &member.endpoint()]);
            if let Some(ticket) = ticket {
                command.args(["--join", &ticket.server]);
            }
        }
        Role::Node => {
            command.args(["agent", "--name", &member.name, "--data-dir"]).arg(&member.directory);
            command.arg("--run-dir").arg(&member.run_directory).arg("--images-dir").arg(lab.images());
            command.args(["--address", &member.address.to_string(), "--cgroup", &member.cgroup]);
            command.args(ledger.mirrors.iter().flat_map(|mirror| ["--mirror", mirror.as_str()]));
            if let Some(ticket) = ticket {
                command.args(["--server", &ticket.server]);
            }
        }
    }
    if let Some(ticket) = ticket {
        command.env("COPEPOD_TOKEN", &ticket.token);
    }
    let errors = log.try_clone().doing(member.log.display())?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
    let child = command.spawn().doing("cannot start setsid and nsenter (package util-linux)")?;
    let pid = child.id() as i32;
    let start_ticks = start_ticks(pid).unwrap_or_default();
    ledger.processes.insert(member.name.clone(), Process { pid, start_ticks });
    ledger.write(lab)
}

impl Process {
    /// Whether it is this very process that has the id, and it has not ended.
    pub fn lives(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    pub fn signal(&self, signal: Signal) {
        if self.lives() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        if !self.ends_within(STOP_MAX) {
            self.signal(Signal::SIGKILL);
            self.ends_within(STOP_MAX);
        }
    }

    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.ends_within(STOP_MAX);
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.lives() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// The time a process started, in ticks since boot; `None` when there is none or it has ended (proc(5), field 22).
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The last lines of a member's log: why it did not come up.
pub fn last_words(member: &Member) -> String {
    let text = fs::read_to_string(&member.log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

pub fn write_private(path: &Path, content: &[u8]) -> Outcome {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .doing(beside.display())?;
    file.write_all(content).and_then(|()| fs::rename(&beside, path)).doing(path.display())
}

/// Runs a command of the system and gives what it printed.
pub fn system(program: &str, arguments: &[&str], input: &str) -> Outcome<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run {program}: {error}")).hint(package(program)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).doing(program)?;
    }
    let output = child.wait_with_output().doing(program)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{program} {}: {}", arguments.join(" "), errors.trim())))
}

fn package(program: &str) -> String {
    let package = match program {
        "ip" => "iproute2",
        "nft" => "nftables",
        _ => "util-linux",
    };
    format!("on Debian and Ubuntu: apt-get install {package}")
}
