//! Signs what was approved: requests for certificates of the signers that are the cluster's own.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::{
    Action, Key, Plan, Request, Resource, Timestamp, User,
    k8s_openapi::api::certificates::v1::CertificateSigningRequest, time::rfc3339,
};
use copepod_identity::{Authority, MASTERS_GROUP, NODES_GROUP, SERVERS_GROUP, Usages, Wanted};
use copepod_store::{Event, EventKind, View};
use serde_json::{Value, json};

use super::Controller;

pub const CONTROLLER: Controller = Controller { name: "csrsigning-controller", wakes, all, reconcile };

const REQUESTS: Resource = Resource::known("certificates.k8s.io", "certificatesigningrequests");

/// Whoever wants a certificate for longer gets one for this long.
const VALIDITY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Groups that may do everything, or what only machines of the cluster may.
const NEVER: [&str; 2] = [MASTERS_GROUP, SERVERS_GROUP];

const NODE_USER: &str = "system:node:";

fn wakes(_: &View, event: &Event) -> Vec<Key> {
    let is_news = event.kind != EventKind::Deleted && event.object.key.resource == REQUESTS;
    is_news.then(|| event.object.key.clone()).into_iter().collect()
}

fn all(view: &View) -> Vec<Key> {
    view.objects(&REQUESTS, None).map(|request| request.key.clone()).collect()
}

fn reconcile(authority: &Authority, view: &View, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(object) = view.object(key) else { return plan };
    let mut request: Value = serde_json::from_slice(&object.bytes()).unwrap_or_default();
    if !is_to_be_signed(&request) {
        return plan;
    }
    match signed(authority, &request, now) {
        Ok(None) => return plan,
        Ok(Some(certificate)) => request["status"]["certificate"] = json!(BASE64_STANDARD.encode(certificate)),
        Err(why) => {
            let at = rfc3339(now);
            let condition = json!({
                "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
                "lastUpdateTime": at, "lastTransitionTime": at,
            });
            match request["status"]["conditions"].as_array_mut() {
                Some(conditions) => conditions.push(condition),
                None => request["status"]["conditions"] = json!([condition]),
            }
        }
    }
    let user = User::system("system:controller:certificate-controller");
    let action = Action::Update { object: request };
    plan.push(Request::of::<CertificateSigningRequest>(&user, "", key.name(), "status", action));
    plan
}

fn is_to_be_signed(request: &Value) -> bool {
    let has = |wanted: &str| {
        request["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == wanted)
    };
    let is_issued = request["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty());
    has("Approved") && !has("Denied") && !has("Failed") && !is_issued
}

/// The certificate, `None` where another signer is meant, or why this one does not sign it.
fn signed(authority: &Authority, request: &Value, now: Timestamp) -> Result<Option<String>, String> {
    let spec = &request["spec"];
    let signer = spec["signerName"].as_str().unwrap_or_default();
    let Some(signer) = signer.strip_prefix("kubernetes.io/") else { return Ok(None) };
    let asked: Vec<&str> = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let pem = BASE64_STANDARD.decode(spec["request"].as_str().unwrap_or_default()).unwrap_or_default();
    let pem = String::from_utf8(pem).map_err(|_| "the request is not PEM".to_owned())?;
    let wanted = Wanted::read(&pem).map_err(|error| error.to_string())?;
    let usages = match signer {
        "kube-apiserver-client" => {
            if let Some(group) = wanted.organizations.iter().find(|group| NEVER.contains(&group.as_str())) {
                return Err(format!("the group {group:?} is not given away on request"));
            }
            client(&asked)?
        }
        "kube-apiserver-client-kubelet" => {
            of_node(&wanted)?;
            if !wanted.dns_names.is_empty() || !wanted.addresses.is_empty() || wanted.has_other_names {
                return Err("a node's client certificate may not have subject alternative names".to_owned());
            }
            client(&asked)?
        }
        "kubelet-serving" => {
            of_node(&wanted)?;
            if wanted.dns_names.is_empty() && wanted.addresses.is_empty() {
                return Err("at least one DNS name or IP address is needed".to_owned());
            }
            if wanted.has_other_names {
                return Err("only DNS names and IP addresses may be subject alternative names".to_owned());
            }
            only(&asked, "server auth", &["digital signature", "key encipherment"])?;
            Usages { server: true, client: false }
        }
        _ => return Ok(None),
    };
    if wanted.organizations.len() > 1 {
        return Err("only one organization can be signed".to_owned());
    }
    let seconds = spec["expirationSeconds"].as_u64().map_or(VALIDITY_MAX, Duration::from_secs);
    let certificate = authority.sign_wanted(&pem, usages, now, seconds.min(VALIDITY_MAX));
    certificate.map(Some).map_err(|error| error.to_string())
}

fn client(asked: &[&str]) -> Result<Usages, String> {
    only(asked, "client auth", &["digital signature", "key encipherment"])?;
    Ok(Usages { server: false, client: true })
}

/// The usage that the signer is for, and others only where they belong to it.
fn only(asked: &[&str], needed: &str, also: &[&str]) -> Result<(), String> {
    if !asked.contains(&needed) {
        return Err(format!("the usage {needed:?} is missing"));
    }
    match asked.iter().find(|usage| **usage != needed && !also.contains(usage)) {
        Some(other) => Err(format!("the usage {other:?} is not one that this signer signs")),
        None => Ok(()),
    }
}

fn of_node(wanted: &Wanted) -> Result<(), String> {
    if wanted.organizations != [NODES_GROUP] {
        return Err(format!("the organization must be {NODES_GROUP:?} and no other"));
    }
    match wanted.common_name.starts_with(NODE_USER) {
        true => Ok(()),
        false => Err(format!("the common name must begin with {NODE_USER:?}")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn request(signer: &str, group: &str, names: &[&str], usages: &[&str]) -> Value {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.distinguished_name.push(DnType::OrganizationName, group);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"spec": {"signerName": signer, "request": BASE64_STANDARD.encode(pem), "usages": usages}})
    }

    #[test]
    fn each_signer_signs_what_it_is_for() {
        let authority = Authority::create(Timestamp::now()).unwrap();
        let client = &["digital signature", "client auth"][..];
        let server = &["digital signature", "server auth"][..];
        let cases = [
            ("kubernetes.io/kube-apiserver-client", "team", &[][..], client, "signed"),
            ("kubernetes.io/kube-apiserver-client", "system:masters", &[], client, "not given away"),
            ("kubernetes.io/kube-apiserver-client", "system:servers", &[], client, "not given away"),
            ("kubernetes.io/kube-apiserver-client", "team", &[], server, "\"client auth\" is missing"),
            ("kubernetes.io/kube-apiserver-client-kubelet", "system:nodes", &[], client, "signed"),
            ("kubernetes.io/kube-apiserver-client-kubelet", "team", &[], client, "organization must be"),
            ("kubernetes.io/kube-apiserver-client-kubelet", "system:nodes", &["n1"], client, "may not have"),
            ("kubernetes.io/kubelet-serving", "system:nodes", &["n1"], server, "signed"),
            ("kubernetes.io/kubelet-serving", "system:nodes", &[], server, "at least one DNS name"),
            ("kubernetes.io/kubelet-serving", "system:nodes", &["n1"], client, "\"server auth\" is missing"),
            ("example.com/own", "team", &[], client, "nobody"),
        ];
        for (signer, group, names, usages, expected) in cases {
            let found = match signed(&authority, &request(signer, group, names, usages), Timestamp::now()) {
                Ok(Some(_)) => "signed".to_owned(),
                Ok(None) => "nobody".to_owned(),
                Err(why) => why,
            };
            assert!(found.contains(expected), "{signer} {group}: {found}");
        }
    }

    #[test]
    fn only_what_was_approved_is_signed() {
        let with = |types: &[&str]| {
            let conditions: Vec<Value> = types.iter().map(|type_| json!({ "type": type_ })).collect();
            is_to_be_signed(&json!({"status": {"conditions": conditions}}))
        };
        assert!(with(&["Approved"]));
        assert!(!with(&[]) && !with(&["Denied"]) && !with(&["Approved", "Failed"]));
        let issued = json!({"status": {"conditions": [{"type": "Approved"}], "certificate": "x"}});
        assert!(!is_to_be_signed(&issued));
    }
}
