//! What a pod refers to and its node must therefore hold.

use std::collections::BTreeSet;

use copepod_api::{
    Key, Object, Resource,
    ephemeral::as_container,
    k8s_openapi::api::core::v1::{Container, Pod, Volume},
    resource::{CONFIG_MAPS, SECRETS},
};

/// The ConfigMaps and Secrets that a pod's volumes, environment and image pulls name.
pub fn of(namespace: &str, pod: &Pod) -> BTreeSet<Key> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let ephemeral: Vec<Container> = spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).chain(&ephemeral);
    let pulls = spec.image_pull_secrets.iter().flatten().map(|pull| (SECRETS, pull.name.as_str()));
    containers
        .flat_map(in_environment)
        .chain(spec.volumes.iter().flatten().flat_map(in_volume))
        .chain(pulls)
        .map(|(resource, name)| Key::new(resource, namespace, name))
        .collect()
}

/// Whether a volume of the pod shows a token of its service account for this audience.
pub fn shows_token(pod: &Object, audience: &str) -> bool {
    let Ok(pod) = serde_json::from_slice::<Pod>(&pod.bytes()) else { return false };
    let volumes = pod.spec.into_iter().flat_map(|spec| spec.volumes.unwrap_or_default());
    let sources = volumes.filter_map(|volume| volume.projected?.sources).flatten();
    let mut tokens = sources.filter_map(|source| source.service_account_token);
    tokens.any(|token| token.audience.as_deref().unwrap_or_default() == audience)
}

type Reference<'a> = (Resource, &'a str);

fn in_environment(container: &Container) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    for from in container.env_from.iter().flatten() {
        found.extend(from.config_map_ref.as_ref().map(|source| (CONFIG_MAPS, source.name.as_str())));
        found.extend(from.secret_ref.as_ref().map(|source| (SECRETS, source.name.as_str())));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(from.config_map_key_ref.as_ref().map(|source| (CONFIG_MAPS, source.name.as_str())));
        found.extend(from.secret_key_ref.as_ref().map(|source| (SECRETS, source.name.as_str())));
    }
    found
}

fn in_volume(volume: &Volume) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    found.extend(volume.config_map.as_ref().map(|source| (CONFIG_MAPS, source.name.as_str())));
    found.extend(volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()).map(|name| (SECRETS, name)));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        found.extend(source.config_map.as_ref().map(|source| (CONFIG_MAPS, source.name.as_str())));
        found.extend(source.secret.as_ref().map(|source| (SECRETS, source.name.as_str())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_config_map_or_secret_is_found() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {}, "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
                ]}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "c3"}}, {"name": "b", "secret": {"secretName": "s3"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "c4"}}, {"secret": {"name": "s4"}}]}},
                ],
            },
        }))
        .unwrap();
        let names: Vec<String> = of("d", &pod).into_iter().map(|key| key.name().to_owned()).collect();
        assert_eq!(names, ["c1", "c2", "c3", "c4", "pull", "s1", "s2", "s3", "s4"]);
    }
}
