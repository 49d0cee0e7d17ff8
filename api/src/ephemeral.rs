//! Ephemeral containers as containers like any other, so that whoever judges or runs containers needs no second way.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

/// The container that an ephemeral one is, with all that it may say. What it may not (probes, ports, resources) is left
/// out: the API server refuses it, and nobody else must act on it.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let said = ephemeral.clone();
    Container {
        args: said.args,
        command: said.command,
        env: said.env,
        env_from: said.env_from,
        image: said.image,
        image_pull_policy: said.image_pull_policy,
        name: said.name,
        security_context: said.security_context,
        stdin: said.stdin,
        stdin_once: said.stdin_once,
        termination_message_path: said.termination_message_path,
        termination_message_policy: said.termination_message_policy,
        tty: said.tty,
        volume_devices: said.volume_devices,
        volume_mounts: said.volume_mounts,
        working_dir: said.working_dir,
        ..Container::default()
    }
}
