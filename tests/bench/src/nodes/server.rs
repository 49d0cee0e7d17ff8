//! The server that is measured: this program once more, as a process of its own.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    time::{Duration, Instant},
};

use copepod_control_plane::ServerConfig;
use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use tokio_util::sync::CancellationToken;

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);

/// The environment variable that carries the server's port.
const PORT: &str = "COPEPOD_BENCH_PORT";

/// Ticks of the processor's time in `/proc`, a second.
const TICKS: u64 = 100;

/// Is the server until it is killed, or the program that measures it ends, however it does.
pub fn run(data_dir: PathBuf) -> ExitCode {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return complain(&error);
    }
    let port = std::env::var(PORT).ok().and_then(|port| port.parse().ok()).unwrap_or_default();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let config = ServerConfig { name: "bench".into(), data_dir, listen, advertise: listen.to_string(), join: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map(|runtime| runtime.block_on(copepod_control_plane::run(config, CancellationToken::new())));
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => complain(&error),
        Err(error) => complain(&error),
    }
}

fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

pub struct Server {
    process: Child,
    dir: tempfile::TempDir,
    address: SocketAddr,
    authority: String,
}

impl Server {
    pub async fn start() -> Result<Server, String> {
        let text = |error: io::Error| format!("the server cannot be started: {error}");
        // A real disk: what is written is synchronised.
        let dir = tempfile::tempdir_in("/var/tmp").map_err(text)?;
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = free.map_err(text)?;
        let program = std::env::current_exe().map_err(text)?;
        let process = Command::new(program)
            .arg("--serve")
            .arg(dir.path())
            .env(PORT, address.port().to_string())
            .spawn()
            .map_err(text)?;
        let mut server = Server { process, dir, address, authority: String::new() };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(server.address).await.is_err() {
            if begin.elapsed() > START_MAX {
                return Err("the server does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server.authority = fs::read_to_string(server.keys().join("authority.crt")).map_err(text)?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn keys(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    fn proc(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.process.id().to_string()).join(file);
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Processor time taken so far, in the kernel too.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // The name of the process may contain anything; what follows it are numbers.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Duration::from_millis(ticks.sum::<u64>() * 1_000 / TICKS)
    }

    pub fn resident_bytes(&self) -> usize {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        kilobytes.unwrap_or_default() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
