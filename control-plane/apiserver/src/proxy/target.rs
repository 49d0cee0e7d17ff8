//! What `[SCHEME:]NAME[:PORT]` names: the pod and the port to speak to.

use std::sync::atomic::{AtomicUsize, Ordering};

use copepod_api::{
    Key, Status, StatusResult,
    resource::{ENDPOINT_SLICES, NODES, PODS, SERVICES},
};
use copepod_store::View;
use serde_json::Value;

use crate::{
    path::Asked,
    streams::{self, ForwardQuery},
};

/// The port of HTTP, where nobody names one.
const HTTP: u16 = 80;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub struct Target {
    pub query: ForwardQuery,
    /// What the other side is called, for the `Host` header.
    pub host: String,
    /// It speaks TLS. Its certificate is not looked at: nobody has said who should have signed it.
    pub is_https: bool,
}

/// The parts of a name.
struct Named<'a> {
    name: &'a str,
    port: Option<&'a str>,
    is_https: bool,
}

fn parse(text: &str) -> StatusResult<Named<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", "", ""),
    };
    match scheme {
        "" | "http" | "https" if !name.is_empty() => {
            Ok(Named { name, port: Some(port).filter(|port| !port.is_empty()), is_https: scheme == "https" })
        }
        _ => Err(Status::bad_request(format!(
            "invalid name {text:?}: must be NAME, NAME:PORT, http:NAME:PORT or https:NAME:PORT"
        ))),
    }
}

pub fn of(view: &View, asked: &Asked) -> StatusResult<Target> {
    let named = parse(&asked.name)?;
    let resource = asked.row.kind.resource();
    let key = Key::new(resource.clone(), asked.namespace.as_str(), named.name);
    let object = view.object(&key).ok_or_else(|| Status::not_found(&resource, named.name))?;
    // Decoded for this request only.
    let value: Value = serde_json::from_slice(&object.bytes()).map_err(Status::internal)?;
    if resource == PODS {
        let port = pod_port(&value, named.port)?;
        let ip = value["status"]["podIP"].as_str().unwrap_or_default();
        let query = ForwardQuery { port, ..streams::forward_query(object)? };
        return Ok(Target { query, host: format!("{ip}:{port}"), is_https: named.is_https });
    }
    if resource == SERVICES {
        let found = endpoint(view, &asked.namespace, named.name, &value, named.port)?;
        return Ok(Target { is_https: named.is_https, ..found });
    }
    if resource != NODES {
        return Err(Status::no_such_path());
    }
    let Some(port) = named.port else {
        let why = "nodes of this cluster have no API of their own; name a port: nodes/NAME:PORT/proxy";
        return Err(Status::new(501, "NotImplemented", why));
    };
    let port = number(port).ok_or_else(|| not_a_port(port))?;
    let query = ForwardQuery { node: named.name.to_owned(), port, ..ForwardQuery::default() };
    Ok(Target { query, host: format!("{}:{port}", named.name), is_https: named.is_https })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn not_a_port(text: &str) -> Status {
    Status::bad_request(format!("invalid port {text:?}: must be between 1 and 65535, or the name of a port"))
}

/// The port of a pod by number or name; where none is said, the first that it declares.
fn pod_port(pod: &Value, asked: Option<&str>) -> StatusResult<u16> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let declared = |port: &Value| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
    match asked {
        None => Ok(ports.next().and_then(declared).unwrap_or(HTTP)),
        Some(text) => number(text)
            .or_else(|| ports.find(|port| port["name"] == text).and_then(declared))
            .ok_or_else(|| not_a_port(text)),
    }
}

/// Some ready pod behind a port of a service.
pub fn behind(view: &View, namespace: &str, service: &str, port: u16) -> StatusResult<Target> {
    let found = view.object(&Key::new(SERVICES, namespace, service));
    let found = found.ok_or_else(|| Status::not_found(&SERVICES, service))?;
    let value: Value = serde_json::from_slice(&found.bytes()).map_err(Status::internal)?;
    endpoint(view, namespace, service, &value, Some(&port.to_string()))
}

/// Some ready pod behind a service, a different one each time.
fn endpoint(view: &View, namespace: &str, name: &str, service: &Value, asked: Option<&str>) -> StatusResult<Target> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_meant = |port: &&Value| match asked {
        None => ports.len() == 1 || port["name"].as_str().unwrap_or_default().is_empty(),
        Some(text) => port["name"] == text || number(text).is_some_and(|number| port["port"] == number),
    };
    let port_name = ports.iter().find(is_meant).map(|port| port["name"].as_str().unwrap_or_default());
    let port_name = port_name.ok_or_else(none)?;
    let slices = view.objects(&ENDPOINT_SLICES, Some(namespace));
    let slices = slices.filter(|slice| slice.meta.labels.get(SERVICE_NAME).is_some_and(|service| service == name));
    let mut found = Vec::new();
    for slice in slices {
        let slice: Value = serde_json::from_slice(&slice.bytes()).map_err(Status::internal)?;
        let named = |port: &&Value| port["name"].as_str().unwrap_or_default() == port_name;
        let port = slice["ports"].as_array().into_iter().flatten().find(named).and_then(|port| port["port"].as_u64());
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let is_ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            let pod = endpoint["targetRef"]["name"].as_str().filter(|_| endpoint["targetRef"]["kind"] == "Pod");
            let pod = pod.filter(|_| is_ready).and_then(|pod| view.object(&Key::new(PODS, namespace, pod)));
            if let (Some(pod), Some(ip)) = (pod, endpoint["addresses"][0].as_str()) {
                found.push((pod, format!("{ip}:{port}"), port));
            }
        }
    }
    if found.is_empty() {
        return Err(none());
    }
    let (pod, host, port) = found.swap_remove(TURN.fetch_add(1, Ordering::Relaxed) % found.len());
    Ok(Target { query: ForwardQuery { port, ..streams::forward_query(pod)? }, host, is_https: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_have_up_to_three_parts() {
        let parts = |text| parse(text).map(|named| (named.name.to_owned(), named.port.map(str::to_owned)));
        assert_eq!(parts("web").unwrap(), ("web".to_owned(), None));
        assert_eq!(parts("web:80").unwrap(), ("web".to_owned(), Some("80".to_owned())));
        assert_eq!(parts("http:web:").unwrap(), ("web".to_owned(), None));
        for wrong in ["", ":80", "ftp:web:80", "a:b:c:d"] {
            assert_eq!(parts(wrong).unwrap_err().code(), 400, "{wrong}");
        }
    }

    #[test]
    fn a_pods_port_is_a_number_or_a_name_or_its_first() {
        let pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "ports": [{"containerPort": 8080}, {"name": "admin", "containerPort": 9090}]},
        ]}});
        assert_eq!(pod_port(&pod, None).unwrap(), 8080);
        assert_eq!(pod_port(&pod, Some("admin")).unwrap(), 9090);
        assert_eq!(pod_port(&pod, Some("5000")).unwrap(), 5000);
        assert_eq!(pod_port(&json!({}), None).unwrap(), 80);
        for wrong in ["0", "70000", "other"] {
            assert_eq!(pod_port(&pod, Some(wrong)).unwrap_err().code(), 400, "{wrong}");
        }
    }
}
