//! The environment of a container, and `$(NAME)` in its command.

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::downward::{self, Facts};

/// Where the configuration of one namespace is looked up.
pub trait Sources {
    fn config_map(&self, name: &str) -> Option<ConfigMap>;
    fn secret(&self, name: &str) -> Option<Secret>;
}

/// Variables in the order in which they were first set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env(pub Vec<(String, String)>);

impl Env {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((name, value.into())),
        }
    }
}

/// The environment the spec asks for. The error is what the container waits for, in Kubernetes' words.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    services: &[Service],
    sources: &dyn Sources,
    facts: &Facts,
) -> Result<Env, String> {
    let mut env = Env::default();
    service_links(pod, services, &mut env);
    env_from(container, sources, &mut env)?;
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => match value_from(pod, container, source, sources, facts)? {
                Some(value) => value,
                None => continue,
            },
            None => expand(variable.value.as_deref().unwrap_or_default(), &env),
        };
        env.set(&variable.name, value);
    }
    Ok(env)
}

/// Replaces `$(NAME)` by the variable, if there is one; `$$` is a dollar.
pub fn expand(text: &str, env: &Env) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

fn env_from(container: &Container, sources: &dyn Sources, env: &mut Env) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_map(&reference.name) {
                Some(map) => {
                    map.data.into_iter().flatten().for_each(|(key, value)| set_named(env, prefix, &key, value))
                }
                None if reference.optional == Some(true) => (),
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secret(&reference.name) {
                Some(secret) => secret.data.into_iter().flatten().for_each(|(key, value)| {
                    set_named(env, prefix, &key, String::from_utf8_lossy(&value.0).into_owned())
                }),
                None if reference.optional == Some(true) => (),
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    Ok(())
}

/// Keys that cannot be names of variables are left out, as Kubernetes does.
fn set_named(env: &mut Env, prefix: &str, key: &str, value: String) {
    let name = format!("{prefix}{key}");
    if !name.is_empty() && name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        env.set(name, value);
    }
}

fn value_from(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &dyn Sources,
    facts: &Facts,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.field_ref {
        return downward::field(pod, &reference.field_path, facts).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return downward::resource(pod, &container.name, reference, facts).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_map(&reference.name) else {
            return absent(optional, || format!("configmap {:?} not found", reference.name));
        };
        return match map.data.and_then(|mut data| data.remove(&reference.key)) {
            Some(value) => Ok(Some(value)),
            None => absent(optional, || {
                format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name)
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secret(&reference.name) else {
            return absent(optional, || format!("secret {:?} not found", reference.name));
        };
        return match secret.data.and_then(|mut data| data.remove(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => absent(optional, || {
                format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name)
            }),
        };
    }
    Err("valueFrom names no source: use fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef".into())
}

fn absent(optional: bool, message: impl FnOnce() -> String) -> Result<Option<String>, String> {
    if optional { Ok(None) } else { Err(message()) }
}

/// `WEB_SERVICE_HOST` and its relatives for the services of the namespace; the API server's always.
fn service_links(pod: &Pod, services: &[Service], env: &mut Env) {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref();
    let mut chosen: Vec<&Service> = services
        .iter()
        .filter(|service| {
            let name = service.metadata.name.as_deref();
            let from = service.metadata.namespace.as_deref();
            (links && from == namespace) || (from == Some("default") && name == Some("kubernetes"))
        })
        .collect();
    // A service of the pod's own namespace wins over the API server's of the same name.
    chosen.sort_by_key(|service| (service.metadata.namespace.as_deref() == namespace, service.metadata.name.clone()));
    for service in chosen {
        link(service, env);
    }
}

fn link(service: &Service, env: &mut Env) {
    let Some(spec) = &service.spec else { return };
    let Some(address) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let name = variable(service.metadata.name.as_deref().unwrap_or_default());
    env.set(format!("{name}_SERVICE_HOST"), address);
    env.set(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.set(format!("{name}_SERVICE_PORT_{}", variable(port_name)), port.port.to_string());
        }
    }
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            env.set(format!("{name}_PORT"), &url);
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        env.set(&prefix, url);
        env.set(format!("{prefix}_PROTO"), protocol.to_lowercase());
        env.set(format!("{prefix}_PORT"), port.port.to_string());
        env.set(format!("{prefix}_ADDR"), address);
    }
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}
