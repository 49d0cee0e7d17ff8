//! EndpointSlices as nodes are told of them: what a data path is made of, and of a change only the difference.
//!
//! One pod of a thousand becoming ready changes one endpoint of one slice. Told as the object, that is a hundred endpoints for
//! every node to receive, decode and write down; told as the difference it is one, in less than two hundred bytes.

use std::collections::BTreeMap;

use copepod_api::{Key, Object, k8s_openapi::api::discovery::v1};
use copepod_proto::nodes::{Endpoint, Slice, SlicePort};

/// Which service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// All of a slice.
pub fn whole(object: &Object) -> Slice {
    let Some(slice) = read(object) else { return Slice { revision: object.revision.0, ..named(&object.key) } };
    let labels = slice.metadata.labels.as_ref();
    Slice {
        revision: object.revision.0,
        service: labels.and_then(|labels| labels.get(SERVICE_NAME)).cloned().unwrap_or_default(),
        ports: slice.ports.iter().flatten().filter_map(port).collect(),
        endpoints: by_address(slice).into_values().collect(),
        ..named(&object.key)
    }
}

/// What turns `before` into `now`. Whoever has `before` has `now` afterwards, field by field.
pub fn difference(before: &Object, now: &Object) -> Slice {
    let mut told = whole(now);
    // It is read once more, and is in nobody's hands but the history's.
    let Ok(old) = before.decoded::<v1::EndpointSlice>() else { return told };
    let mut old = by_address(&old);
    told.base = before.revision.0;
    told.endpoints.retain(|endpoint| {
        let first = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
        old.remove(first).as_ref() != Some(endpoint)
    });
    told.left = old.into_keys().map(str::to_owned).collect();
    told
}

pub fn gone(key: &Key) -> Slice {
    Slice { gone: true, ..named(key) }
}

fn named(key: &Key) -> Slice {
    Slice { namespace: key.namespace().to_owned(), name: key.name().to_owned(), ..Slice::default() }
}

fn read(object: &Object) -> Option<&v1::EndpointSlice> {
    let read = object.typed::<v1::EndpointSlice>();
    read.inspect_err(|error| tracing::warn!(key = %object.key, %error, "a slice that nobody can be told of")).ok()
}

/// Endpoints are known by their first address, which no two of a slice have in common.
fn by_address(slice: &v1::EndpointSlice) -> BTreeMap<&str, Endpoint> {
    let listed = slice.endpoints.iter().flatten();
    listed.filter_map(|listed| Some((listed.addresses.first()?.as_str(), endpoint(listed)))).collect()
}

fn endpoint(listed: &v1::Endpoint) -> Endpoint {
    let conditions = listed.conditions.as_ref();
    Endpoint {
        addresses: listed.addresses.clone(),
        ready: conditions.and_then(|conditions| conditions.ready) != Some(false),
        leaving: conditions
            .is_some_and(|conditions| conditions.terminating == Some(true) && conditions.serving != Some(false)),
        node: listed.node_name.clone().unwrap_or_default(),
        hostname: listed.hostname.clone().unwrap_or_default(),
    }
}

fn port(listed: &v1::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: listed.name.clone().unwrap_or_default(),
        protocol: listed.protocol.clone().unwrap_or_else(|| "TCP".into()),
        port: u16::try_from(listed.port?).ok()?.into(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use copepod_api::{
        Body, Expect, Op, Timestamp, Txn,
        resource::{ENDPOINT_SLICES, SERVICES},
    };
    use copepod_store::View;
    use serde_json::json;

    use super::*;

    /// A slice of the service `web`, with these endpoints: `address` is ready, `-address` is not.
    pub fn of(endpoints: &[String]) -> serde_json::Value {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|text| {
                let address = text.trim_start_matches('-');
                json!({"addresses": [address], "conditions": {"ready": address == text}, "nodeName": "n2",
                       "targetRef": {"kind": "Pod", "name": address, "uid": address}})
            })
            .collect();
        json!({
            "metadata": {"name": "web-1", "namespace": "d", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints,
        })
    }

    fn stored(view: &View, endpoints: &[&str]) -> View {
        let endpoints: Vec<String> = endpoints.iter().map(|text| (*text).to_owned()).collect();
        let key = Key::new(ENDPOINT_SLICES, "d", "web-1");
        let op = Op::Put { key, body: Body::encode(&of(&endpoints)), expect: Expect::Any };
        view.apply(&Txn { ops: vec![op] }, Timestamp::UNIX_EPOCH).unwrap().0
    }

    fn slice(view: &View) -> std::sync::Arc<Object> {
        view.object(&Key::new(ENDPOINT_SLICES, "d", "web-1")).unwrap().clone()
    }

    #[test]
    fn only_what_changed_is_told() {
        let first = stored(&View::default(), &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let second = stored(&first, &["10.0.0.1", "-10.0.0.2", "10.0.0.4"]);
        let whole = whole(&slice(&first));
        assert_eq!((whole.base, whole.endpoints.len(), whole.service.as_str()), (0, 3, "web"));
        assert_eq!((whole.ports[0].port, whole.ports[0].protocol.as_str()), (80, "TCP"));
        let told = difference(&slice(&first), &slice(&second));
        assert_eq!((told.base, told.revision), (slice(&first).revision.0, slice(&second).revision.0));
        let changed: Vec<_> = told.endpoints.iter().map(|one| (one.addresses[0].as_str(), one.ready)).collect();
        assert_eq!(changed, [("10.0.0.2", false), ("10.0.0.4", true)]);
        assert_eq!(told.left, ["10.0.0.3"]);
        assert!(gone(&Key::new(SERVICES, "d", "web-1")).gone);
    }
}
