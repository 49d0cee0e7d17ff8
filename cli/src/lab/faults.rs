//! Failures on demand, to see what a cluster does about them.

use super::{Lab, Ledger, Role, network, process, sweep};
use crate::failure::{Failure, Outcome};

/// Like pulling the plug: everything of the member ends at once, and its link goes down.
pub fn stop(names: &[String]) -> Outcome {
    let (lab, mut ledger) = (Lab::checked()?, Ledger::expected(&Lab::checked()?)?);
    some(names)?;
    for member in ledger.named(&lab, names)? {
        network::set_link(&member, false)?;
        if let Some(process) = ledger.processes.remove(&member.name) {
            process.kill();
        }
        if member.role == Role::Node {
            sweep::end_containers(&member)?;
        }
        ledger.write(&lab)?;
        println!("{} is off", member.name);
    }
    Ok(())
}

pub fn partition(names: &[String]) -> Outcome {
    let (lab, ledger) = (Lab::checked()?, Ledger::expected(&Lab::checked()?)?);
    some(names)?;
    for member in ledger.named(&lab, names)? {
        network::set_link(&member, false)?;
        println!("{} is cut off", member.name);
    }
    Ok(())
}

pub fn heal(names: &[String]) -> Outcome {
    let (lab, mut ledger) = (Lab::checked()?, Ledger::expected(&Lab::checked()?)?);
    for member in ledger.named(&lab, names)? {
        network::attach(&lab, &member)?;
        if !ledger.is_running(&member) {
            process::start(&lab, &mut ledger, &member, None)?;
            println!("{} is on", member.name);
        } else {
            println!("{} is connected", member.name);
        }
    }
    Ok(())
}

pub fn status() -> Outcome {
    let (lab, ledger) = (Lab::checked()?, Ledger::expected(&Lab::checked()?)?);
    println!("{:<6} {:<8} {:<16} {:<8} LOG", "NAME", "STATE", "ADDRESS", "PID");
    for member in ledger.members(&lab) {
        let link = std::fs::read_to_string(format!("/sys/class/net/{}/flags", member.link)).unwrap_or_default();
        // IFF_UP, netdevice(7).
        let is_up = u32::from_str_radix(link.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1);
        let state = match (ledger.is_running(&member), is_up) {
            (true, true) => "up",
            (true, false) => "cut off",
            (false, _) => "off",
        };
        let pid = ledger.processes.get(&member.name).map_or_else(String::new, |process| process.pid.to_string());
        println!("{:<6} {state:<8} {:<16} {pid:<8} {}", member.name, member.address.to_string(), member.log.display());
    }
    Ok(())
}

fn some(names: &[String]) -> Outcome {
    if names.is_empty() {
        return Err(Failure::new("name at least one server or node").hint("`copepod lab status` lists them"));
    }
    Ok(())
}
