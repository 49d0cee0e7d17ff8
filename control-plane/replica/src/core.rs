//! The thread that runs the machine: it has the queue, the clock and the dice.

use std::{
    any::Any,
    fs,
    io::Read,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    Member, OpenError, Transport,
    disk::Disk,
    log::LogError,
    machine::{Input, Machine, Outlet, Settled, Shown, SnapshotWork, TICK},
    replica::Config,
};

/// Inputs taken before Raft is asked what to do, so that a flood of proposals becomes one write, not one each.
const INPUTS_A_ROUND: usize = 1024;

/// Between two tries to write a log that could not be written.
const DISK_RETRY: Duration = Duration::from_millis(500);

/// Opens the machine on a thread of its own, and says what it shows.
pub fn spawn<D: Disk>(
    config: Config,
    disk: D,
    transport: Arc<dyn Transport>,
    lock: Option<fs::File>,
) -> Result<(mpsc::Sender<Input>, Shown), OpenError> {
    let failed = |error| OpenError::Io { path: PathBuf::from("thread"), error };
    let (inputs, queue) = mpsc::channel();
    let (started, opened) = mpsc::sync_channel(1);
    let outlet = Outward { transport, inputs: inputs.clone(), writing: None };
    std::thread::Builder::new()
        .name("raft".to_owned())
        .spawn(move || match Machine::open(config, disk, Box::new(outlet), Box::new(rand::random::<u64>)) {
            Ok((machine, shown)) => {
                let _ = started.send(Ok(shown));
                let stopped = run(machine, &queue);
                drop(queue);
                drop(lock);
                if let Some(waiting) = stopped {
                    let _ = waiting.send(());
                }
            }
            Err(error) => drop(started.send(Err(error))),
        })
        .map_err(failed)?;
    let shown =
        opened.recv().map_err(|_| failed(std::io::Error::other("the thread of the log ended while it opened")))??;
    Ok((inputs, shown))
}

/// Until it is told to stop; gives the one who waits for that, to be told when all is let go of.
fn run<D: Disk>(mut machine: Machine<D>, queue: &mpsc::Receiver<Input>) -> Option<oneshot::Sender<()>> {
    let mut ticked = Instant::now();
    loop {
        match machine.settle() {
            Ok(Settled::Done) => (),
            Ok(Settled::DiskFull) => {
                tracing::error!("the disk is full; nothing is lost, and this server goes on once there is space");
                std::thread::sleep(DISK_RETRY);
            }
            Err(error) => give_up(&error),
        }
        match queue.recv_timeout(TICK.saturating_sub(ticked.elapsed())) {
            Ok(Input::Stop { answer }) => return Some(answer),
            Ok(input) => machine.take(input),
            Err(mpsc::RecvTimeoutError::Timeout) => (),
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
        for _ in 0..INPUTS_A_ROUND {
            match queue.try_recv() {
                Ok(Input::Stop { answer }) => return Some(answer),
                Ok(input) => machine.take(input),
                Err(_) => break,
            }
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            machine.tick();
        }
    }
}

/// After a failed fdatasync nobody knows what is on the disk but a process that reads it again.
fn give_up(error: &LogError) -> ! {
    tracing::error!(%error, "the log cannot be written; this server stops");
    std::process::exit(1)
}

/// What the machine says, carried out by threads and the transport.
struct Outward {
    transport: Arc<dyn Transport>,
    inputs: mpsc::Sender<Input>,
    writing: Option<Writing>,
}

impl Outlet for Outward {
    fn send(&mut self, to: &Member, messages: Vec<Bytes>) {
        self.transport.send(to, messages);
    }

    fn send_snapshot(&mut self, to: &Member, message: Bytes, data: Box<dyn Read + Send>) {
        let (id, inputs) = (to.id, self.inputs.clone());
        let done = move |sent| {
            let _ = inputs.send(Input::snapshot_sent(id, sent));
        };
        self.transport.send_snapshot(to, message, data, Box::new(done));
    }

    fn write_snapshot(&mut self, work: SnapshotWork) {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (stop, inputs) = (is_stopping.clone(), self.inputs.clone());
        let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
            let _ = inputs.send(work.carry_out(&stop));
        });
        match thread {
            Ok(thread) => self.writing = Some(Writing { is_stopping, thread: Some(thread) }),
            Err(error) => drop(self.inputs.send(Input::Written { written: Err(error) })),
        }
    }

    fn let_go(&mut self, what: Box<dyn Any + Send>) {
        std::thread::spawn(move || drop(what));
    }
}

/// The thread that writes a snapshot. It ends before this does: whoever opens the directory next has it alone.
struct Writing {
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
