//! What the ports of a service mean on a pod.

use copepod_api::{
    Object,
    k8s_openapi::{
        api::{
            core::v1::{Pod, ServicePort, ServiceSpec},
            discovery::v1::EndpointPort,
        },
        apimachinery::pkg::util::intstr::IntOrString,
    },
};

/// The ports of a service on one pod, without those that the pod does not name.
pub fn resolve(spec: &ServiceSpec, pod: &Object) -> Vec<EndpointPort> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            let number = number(port, pod)?;
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn number(port: &ServicePort, pod: &Object) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.typed::<Pod>().ok()?.spec.as_ref()?;
    // Sidecars serve too: they are the init containers that are always restarted.
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let named = |port: &&copepod_api::k8s_openapi::api::core::v1::ContainerPort| port.name.as_ref() == Some(name);
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter(named)
        .find(|own| protocol(own.protocol.as_deref()) == protocol(port.protocol.as_deref()))
        .map(|own| own.container_port)
}

fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}
