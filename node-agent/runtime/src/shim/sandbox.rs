//! The pod's namespaces: made by the shim for itself, and pinned as files for containers and the agent to find.

use std::{fs, io, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigHandler, Signal, signal},
    },
    unistd::{sethostname, setsid},
};

use crate::SandboxSpec;

pub fn make(directory: &Path) -> Result<SandboxSpec, String> {
    let path = directory.join("sandbox.json");
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let spec: SandboxSpec = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    // A session of its own: the end of the agent's terminal is none of our business.
    let _ = setsid();
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        let _ = signal(Signal::SIGHUP, SigHandler::SigIgn);
        let _ = signal(Signal::SIGPIPE, SigHandler::SigIgn);
    }
    let name = c"copepod-shim";
    let _ = prctl::set_name(name);
    prctl::set_child_subreaper(true).map_err(|error| format!("becoming a subreaper: {error}"))?;
    namespaces(directory, &spec).map_err(|(what, error)| format!("{what}: {error}"))?;
    Ok(spec)
}

type Failed = (&'static str, io::Error);

fn namespaces(directory: &Path, spec: &SandboxSpec) -> Result<(), Failed> {
    let mut flags = CloneFlags::empty();
    let mut pins = Vec::new();
    if !spec.host_network {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        pins.extend(["net", "uts"]);
    }
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        pins.push("ipc");
    }
    let failed = |what: &'static str| move |error: Errno| (what, io::Error::from(error));
    unshare(flags).map_err(failed("making namespaces"))?;
    if !spec.host_network {
        sethostname(&spec.hostname).map_err(failed("setting the hostname"))?;
        loopback_up().map_err(|error| ("bringing the loopback up", error))?;
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(path, value).map_err(|error| ("setting a sysctl", error))?;
    }
    let pinned = directory.join("ns");
    fs::create_dir_all(&pinned).map_err(|error| ("making the directory of namespaces", error))?;
    for name in pins {
        let target = pinned.join(name);
        fs::write(&target, "").map_err(|error| ("making a file to pin a namespace to", error))?;
        let source = format!("/proc/self/ns/{name}");
        let none = None::<&str>;
        mount(Some(source.as_str()), &target, none, MsFlags::MS_BIND, none).map_err(failed("pinning a namespace"))?;
    }
    let shm = directory.join("shm");
    if !spec.host_ipc {
        fs::create_dir_all(&shm).map_err(|error| ("making the shared memory", error))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=64m"))
            .map_err(failed("mounting the shared memory"))?;
    }
    Ok(())
}

/// Sets IFF_UP of `lo` in the namespace we are in (netdevice(7)).
fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    let mut request: nix::libc::ifreq = {
        // SAFETY: ifreq is plain data, for which zeros are a value.
        unsafe { std::mem::zeroed() }
    };
    request.ifr_name[0] = b'l' as nix::libc::c_char;
    request.ifr_name[1] = b'o' as nix::libc::c_char;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: both calls get a descriptor that is open and a request that lives until they return.
    unsafe {
        if nix::libc::ioctl(fd, nix::libc::SIOCGIFFLAGS, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= nix::libc::IFF_UP as nix::libc::c_short;
        if nix::libc::ioctl(fd, nix::libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
