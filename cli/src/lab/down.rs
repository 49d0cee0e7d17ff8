//! `copepod down`: takes away everything that `up` and its cluster made.

use std::fs;

use super::{Lab, Ledger, Role, network, sweep};
use crate::failure::{Doing, Outcome};

pub fn down() -> Outcome {
    let lab = Lab::checked()?;
    let Some(ledger) = Ledger::read(&lab)? else {
        println!("there is no local cluster; nothing to do");
        return Ok(());
    };
    // Agents first: nobody may start again what is taken away.
    let members = ledger.members(&lab);
    for member in members.iter().rev() {
        if let Some(process) = ledger.processes.get(&member.name) {
            match member.role {
                Role::Node => process.terminate(),
                Role::Server => process.kill(),
            }
        }
    }
    for member in &members {
        if member.role == Role::Node {
            sweep::end_containers(member)?;
        }
    }
    sweep::unmount_below(&[lab.directory(), lab.run_directory()])?;
    for member in &members {
        if member.role == Role::Node {
            sweep::remove_cgroups(member)?;
        }
        network::detach(member)?;
    }
    network::close(&lab, &ledger)?;
    for directory in [lab.run_directory(), lab.directory()] {
        if directory.exists() {
            fs::remove_dir_all(&directory).doing(directory.display())?;
        }
        // Shared with other clusters and real servers of this machine: gone only when empty.
        let _ = directory.parent().map(fs::remove_dir);
    }
    println!("the local cluster is gone");
    Ok(())
}
