//! `copepod backup` and `copepod restore`: a cluster in one file.

use std::{
    fs,
    io::{self, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc,
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use copepod_control_plane::{BackupError, Summary};

use crate::{
    client::{Client, refused},
    failure::{Doing, Failure, Outcome},
    server::Reborn,
};

/// Pieces that have arrived and are not checked yet.
const PIECES_AHEAD: usize = 16;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Backup {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Where the backup goes, or - for standard output. It holds the cluster's keys: whoever can read it is administrator
    #[arg(required = true)]
    file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Reads a backup to its end, and says what it holds
    Verify { file: PathBuf },
}

#[derive(Args)]
pub struct Restore {
    /// A backup, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    reborn: Reborn,
}

/// Written as it arrives, and checked on the way: a file of this name is whole.
pub async fn back_up(client: &Client, backup: Backup) -> Outcome {
    let Some(path) = backup.file else { return Err(Failure::new("no file is named")) };
    let to_stdout = path.as_os_str() == "-";
    let beside = path.with_added_extension("new");
    let mut out: Box<dyn Write> = match to_stdout {
        true => Box::new(io::stdout()),
        false => Box::new(private(&beside).doing(beside.display())?),
    };
    let mut body =
        client.stream("/copepod/v1/backup", "application/octet-stream").await?.map_err(|status| refused(&status))?;
    let (pieces, arriving) = mpsc::sync_channel(PIECES_AHEAD);
    let checking = std::thread::spawn(move || {
        let mut arriving = Arriving { pieces: arriving, rest: Bytes::new() };
        copepod_control_plane::check_backup(&mut arriving)
    });
    while let Some(piece) = body.chunk().await {
        out.write_all(&piece).doing(path.display())?;
        if pieces.send(piece).is_err() {
            break;
        }
    }
    drop(pieces);
    let checked = checking.join().map_err(|_| Failure::new("the backup could not be checked"))?;
    let summary = checked.map_err(|error| {
        let _ = fs::remove_file(&beside);
        Failure::new(format!("the backup did not arrive whole: {error}")).hint("try again; the cluster is not changed")
    })?;
    out.flush().doing(path.display())?;
    if !to_stdout {
        let kept = fs::File::open(&beside).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&beside, &path));
        kept.doing(path.display())?;
    }
    eprintln!("{}: {}", path.display(), told(&summary));
    Ok(())
}

pub fn verify(verb: Verb) -> Outcome {
    let Verb::Verify { file } = verb;
    let summary = copepod_control_plane::check_backup(&mut open(&file)?).map_err(|error| unusable(&file, &error))?;
    println!("{}: {}", file.display(), told(&summary));
    Ok(())
}

pub fn restore(Restore { file, reborn }: Restore) -> Outcome {
    let founder = reborn.founder()?;
    let name = founder.name.clone();
    let restored = copepod_control_plane::restore(&mut open(&file)?, &reborn.data_dir, founder)
        .map_err(|error| unusable(&file, &error))?;
    println!(
        "restored {} objects of cluster {} into {}",
        restored.n_objects,
        restored.cluster_id,
        reborn.data_dir.display()
    );
    println!("  as of revision {}; the cluster goes on at {}", restored.found.0, restored.revision.0);
    println!("  start it:      {}", reborn.command(&name));
    println!("  more servers:  copepod token create --role server");
    println!("  nodes:         come back by themselves where this server has an address that they know");
    Ok(())
}

fn told(summary: &Summary) -> String {
    let Summary { cluster, taken, revision, n_objects, n_bytes } = summary;
    let taken = taken.strftime("%Y-%m-%d %H:%M:%S UTC");
    format!("{n_objects} objects of cluster {cluster} at revision {revision}, taken {taken}, {n_bytes} bytes, all well")
}

fn unusable(file: &Path, error: &BackupError) -> Failure {
    match error {
        BackupError::NotEmpty { .. } => {
            Failure::new(error.to_string()).hint("name another with --data-dir, or move what is there out of the way")
        }
        BackupError::Damaged { .. } => Failure::new(format!("{}: {error}", file.display()))
            .hint("nothing was changed; take another backup, and see `copepod backup verify`"),
        _ => Failure::new(format!("{}: {error}", file.display())),
    }
}

fn open(file: &Path) -> Outcome<Box<dyn Read>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    Ok(Box::new(BufReader::new(fs::File::open(file).doing(file.display())?)))
}

fn private(path: &Path) -> io::Result<fs::File> {
    // One that was left with other rights would keep them.
    let _ = fs::remove_file(path);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Pieces as a reader; where nobody sends any more, it ends.
struct Arriving {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.rest = piece,
                Err(_) => return Ok(0),
            }
        }
        let length = self.rest.len().min(into.len());
        into[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
