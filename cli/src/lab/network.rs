//! The lab's private network: a bridge, and for every member a namespace with one link to it.

use std::{fs, path::Path};

use super::{Lab, Ledger, Member, process::system};
use crate::failure::{Doing, Outcome};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Makes the bridge and lets its members reach the world, under the machine's own address.
pub fn open(lab: &Lab, ledger: &mut Ledger) -> Outcome {
    let bridge = lab.bridge();
    if !exists(&bridge) {
        let commands = format!(
            "link add {bridge} type bridge\naddr add {}/24 dev {bridge}\nlink set {bridge} up\n",
            lab.host_address()
        );
        system("ip", &["-batch", "-"], &commands)?;
    }
    let before = fs::read_to_string(IP_FORWARD).doing(IP_FORWARD)?.trim().to_owned();
    if before == "0" {
        ledger.ip_forward_before.get_or_insert(before);
        ledger.write(lab)?;
        fs::write(IP_FORWARD, "1").doing(IP_FORWARD)?;
    }
    let (table, network) = (table(lab), lab.network());
    let rules = format!(
        "table ip {table} {{}}\ndelete table ip {table}\ntable ip {table} {{\n\
         chain out {{ type nat hook postrouting priority srcnat; ip saddr {network} oifname != \"{bridge}\" masquerade; }}\n}}\n"
    );
    system("nft", &["-f", "-"], &rules).map(drop)
}

pub fn close(lab: &Lab, ledger: &Ledger) -> Outcome {
    if exists(&lab.bridge()) {
        system("ip", &["link", "del", &lab.bridge()], "")?;
    }
    let table = table(lab);
    system("nft", &["-f", "-"], &format!("table ip {table} {{}}\ndelete table ip {table}\n"))?;
    if let Some(before) = &ledger.ip_forward_before {
        fs::write(IP_FORWARD, before).doing(IP_FORWARD)?;
    }
    Ok(())
}

/// Makes a member's namespace and link, unless they stand.
pub fn attach(lab: &Lab, member: &Member) -> Outcome {
    let Member { namespace, link, address, .. } = member;
    if !has_namespace(member) {
        system("ip", &["netns", "add", namespace], "")?;
    }
    if exists(link) {
        return set_link(member, true);
    }
    let bridge = lab.bridge();
    let outside =
        format!("link add {link} type veth peer name eth0 netns {namespace}\nlink set {link} master {bridge} up\n");
    system("ip", &["-batch", "-"], &outside)?;
    let inside = format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n",
        lab.host_address()
    );
    system("ip", &["-n", namespace, "-batch", "-"], &inside).map(drop)
}

pub fn detach(member: &Member) -> Outcome {
    if exists(&member.link) {
        system("ip", &["link", "del", &member.link], "")?;
    }
    if has_namespace(member) {
        system("ip", &["netns", "del", &member.namespace], "")?;
    }
    Ok(())
}

/// Cuts a member off, or brings it back.
pub fn set_link(member: &Member, up: bool) -> Outcome {
    system("ip", &["link", "set", &member.link, if up { "up" } else { "down" }], "").map(drop)
}

pub fn has_namespace(member: &Member) -> bool {
    Path::new("/run/netns").join(&member.namespace).exists()
}

fn exists(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}

fn table(lab: &Lab) -> String {
    format!("copepod_{}", lab.name)
}
