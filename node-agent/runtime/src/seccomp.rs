//! The default system call filter.
//!
//! Container engines ship a list of what is allowed; a call that the kernel learns later is then refused until somebody
//! adds it, and programs break on new C libraries. The calls that matter are those that reach beyond a container, and
//! they are few, so this filter names those and allows the rest. A capability that exists for a call lifts its refusal.

use serde_json::{Value, json};

/// Calls refused with EPERM, unless the container has the capability.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "add_key",
            "keyctl",
            "request_key",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "kexec_load",
            "kexec_file_load",
            "nfsservctl",
            "uselib",
            "ustat",
            "sysfs",
            "_sysctl",
            "vm86",
            "vm86old",
            "create_module",
            "get_kernel_syms",
            "query_module",
            "lsm_set_self_attr",
        ],
    ),
    (
        "CAP_SYS_ADMIN",
        &[
            "mount",
            "umount",
            "umount2",
            "mount_setattr",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "open_tree",
            "pivot_root",
            "setns",
            "unshare",
            "quotactl",
            "quotactl_fd",
            "sethostname",
            "setdomainname",
            "swapon",
            "swapoff",
            "lookup_dcookie",
            "fanotify_init",
            "bpf",
            "perf_event_open",
            "syslog",
            "setns",
        ],
    ),
    ("CAP_SYS_MODULE", &["init_module", "finit_module", "delete_module"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    (
        "CAP_SYS_TIME",
        &["settimeofday", "stime", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64"],
    ),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_PTRACE", &["kcmp", "process_vm_readv", "process_vm_writev", "process_madvise"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "move_pages", "migrate_pages", "set_mempolicy"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
];

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The flags of clone(2) that make namespaces: all but those of cgroups are known to every kernel we run on.
const CLONE_NEW: u64 = 0x7E02_0000;

/// The filter as the OCI runtime specification writes it.
pub fn default(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|other| other == name);
    let mut rules = Vec::new();
    for (capability, calls) in REFUSED {
        if capability.is_empty() || !has(capability) {
            rules.push(json!({"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM}));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        // clone3 hides its flags behind a pointer; C libraries fall back to clone when it does not exist.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
        for shift in 0..32 {
            let flag = 1u64 << shift;
            if CLONE_NEW & flag != 0 {
                rules.push(json!({
                    "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM,
                    "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
                }));
            }
        }
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules})
}

fn architectures() -> Vec<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => Vec::new(),
    }
}
