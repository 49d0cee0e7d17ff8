//! Which capabilities a container has.

use crate::Capabilities;

/// What containers have where nothing is said: the set that container engines have agreed on.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All of Linux 6 (capabilities(7)).
const ALL: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

/// The names, with `CAP_`, in order. What this machine's root lacks itself is left out: nobody can give it away.
pub fn granted(asked: &Capabilities, privileged: bool, held: u64) -> Vec<String> {
    let plain = |name: &String| name.to_uppercase().trim_start_matches("CAP_").to_owned();
    let add: Vec<String> = asked.add.iter().map(plain).collect();
    let drop: Vec<String> = asked.drop.iter().map(plain).collect();
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let has = |name: &str| {
        let named = |list: &[String]| list.iter().any(|other| other == name);
        let usual = privileged || DEFAULT.contains(&name);
        match (named(&add), named(&drop)) {
            (true, _) => true,
            (_, true) => false,
            _ => all(&add) || (usual && (privileged || !all(&drop))),
        }
    };
    ALL.iter().filter(|name| has(name) && held & bit(name) != 0).map(|name| format!("CAP_{name}")).collect()
}

/// The capabilities of this process's bounding set, as a mask.
pub fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// Numbers of linux/capability.h.
fn bit(name: &str) -> u64 {
    const ORDER: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    ORDER.iter().position(|other| *other == name).map_or(0, |place| 1 << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        granted(&Capabilities { add: list(add), drop: list(drop) }, false, u64::MAX)
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(asked(&[], &[]).len(), 14);
        assert_eq!(asked(&["NET_ADMIN"], &[]).len(), 15);
        assert_eq!(asked(&["net_bind_service"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(asked(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert!(!asked(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
    }

    #[test]
    fn nobody_gives_what_root_lacks() {
        assert_eq!(granted(&Capabilities::default(), true, bit("CHOWN") | bit("KILL")), ["CAP_CHOWN", "CAP_KILL"]);
    }
}
