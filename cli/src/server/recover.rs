//! `copepod server recover`: the last server of a cluster begins it anew.

use super::Reborn;
use crate::failure::{Doing, Outcome};

pub fn run(reborn: Reborn) -> Outcome {
    let founder = reborn.founder()?;
    let name = founder.name.clone();
    let found = copepod_control_plane::recover(&reborn.data_dir, founder).doing("recovery")?;
    println!("{} objects at revision {} are the cluster's from now on", found.n_objects, found.found.0);
    println!("  its only server: {name}, id {}; the cluster goes on at revision {}", found.id, found.revision.0);
    println!("  start it:        {}", reborn.command(&name));
    println!("  other servers:   remove their directories and let them join again; what they hold counts no more");
    println!("  as it was:       {}", reborn.data_dir.join("raft.before-recovery").display());
    Ok(())
}
