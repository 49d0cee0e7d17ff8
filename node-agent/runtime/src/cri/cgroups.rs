//! Who makes cgroups below the one of a pod: the runtime itself, or systemd on its behalf.
//!
//! The parent of a sandbox is a path for the first and the name of a slice for the second. A slice's name says where it
//! is: `a-b-c.slice` lies in `a-b.slice`, which lies in `a.slice` (systemd.slice(5)); so dashes in our names are replaced.

use std::path::PathBuf;

use super::proto;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Called `cgroupfs` elsewhere.
    Files,
    Systemd,
}

impl CgroupDriver {
    /// What the runtime says; an older one shows it only among its own settings.
    pub fn of(answer: Option<&proto::RuntimeConfigResponse>, settings: Option<&str>) -> CgroupDriver {
        if let Some(linux) = answer.and_then(|answer| answer.linux.as_ref()) {
            return match linux.cgroup_driver() {
                proto::CgroupDriver::Systemd => CgroupDriver::Systemd,
                proto::CgroupDriver::Cgroupfs => CgroupDriver::Files,
            };
        }
        let settings: serde_json::Value = settings.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let name = settings["containerd"]["defaultRuntimeName"].as_str().unwrap_or("runc");
        match &settings["containerd"]["runtimes"][name]["options"]["SystemdCgroup"] {
            serde_json::Value::Bool(true) => CgroupDriver::Systemd,
            _ => CgroupDriver::Files,
        }
    }

    /// The parent as the runtime wants it named.
    pub fn parent(self, path: &str) -> String {
        match self {
            CgroupDriver::Files => format!("/{}", path.trim_start_matches('/')),
            CgroupDriver::Systemd => format!("{}.slice", parts(path).join("-")),
        }
    }

    /// Where the parent is, below the root of a hierarchy.
    pub fn path(self, path: &str) -> String {
        if self == CgroupDriver::Files {
            return path.to_owned();
        }
        let parts = parts(path);
        let slices = (1..=parts.len()).map(|length| format!("{}.slice", parts[..length].join("-")));
        slices.collect::<PathBuf>().to_string_lossy().into_owned()
    }
}

fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| part.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_asked_for_or_read_from_settings() {
        let said = |driver: proto::CgroupDriver| {
            let linux = proto::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
            CgroupDriver::of(Some(&proto::RuntimeConfigResponse { linux: Some(linux) }), None)
        };
        assert_eq!(said(proto::CgroupDriver::Systemd), CgroupDriver::Systemd);
        assert_eq!(said(proto::CgroupDriver::Cgroupfs), CgroupDriver::Files);
        let settings = r#"{"containerd": {"defaultRuntimeName": "runc",
            "runtimes": {"runc": {"options": {"SystemdCgroup": true}}}}}"#;
        assert_eq!(CgroupDriver::of(None, Some(settings)), CgroupDriver::Systemd);
        assert_eq!(CgroupDriver::of(None, Some("{}")), CgroupDriver::Files);
        assert_eq!(CgroupDriver::of(None, None), CgroupDriver::Files);
    }

    #[test]
    fn slices_are_named_after_those_they_lie_in() {
        let path = "copepod/node-1/burstable/podab-cd";
        assert_eq!(CgroupDriver::Files.parent(path), "/copepod/node-1/burstable/podab-cd");
        assert_eq!(CgroupDriver::Systemd.parent(path), "copepod-node_1-burstable-podab_cd.slice");
        assert_eq!(
            CgroupDriver::Systemd.path(path),
            "copepod.slice/copepod-node_1.slice/copepod-node_1-burstable.slice/\
             copepod-node_1-burstable-podab_cd.slice"
        );
    }
}
