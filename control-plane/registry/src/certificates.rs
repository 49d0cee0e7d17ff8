//! Requests for certificates: `certificates.k8s.io/v1`.
//!
//! Three parts of one object belong to three: the request to who asks, the approval to who decides, the certificate to
//! who signs. Each subresource touches its own and nothing else.

use copepod_access::{Attributes, Index, Wish};
use copepod_api::{Request, Scope, Status, StatusResult, Subresource, field::Errors, names, time};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use crate::{
    Row, age, json as fields,
    pipeline::World,
    row::{self, AGE, Column, Hooks, NAME, STATUS, column, kind},
    rules::{Part, at, each, immutable, list_at, text_at},
};

const GROUP: &str = "certificates.k8s.io";

const COLUMNS: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "string", "Who is to sign it."),
    column("Requestor", "string", "Who asks."),
    column("RequestedDuration", "string", "For how long."),
    column("Condition", "string", "What became of it."),
];

const APPROVAL: Subresource = Subresource { name: "approval", kind: None, verbs: &["get", "patch", "update"] };

/// Nobody renews more often than this.
const DURATION_MIN_SECONDS: i64 = 600;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(crate) fn rows() -> Vec<Row> {
    vec![Row::new(
        kind::<CertificateSigningRequest>(
            "certificatesigningrequests",
            "certificatesigningrequest",
            &["csr"],
            Scope::Cluster,
            &[APPROVAL, STATUS],
        ),
        Hooks {
            stamp: note_requester,
            guard: |world, request, new, old| may_decide(world, request, new, old),
            validate: |request, errors| {
                validate(request, errors);
                Ok(())
            },
            validate_update: |new, old, errors| {
                immutable(new, old, &["spec"], errors);
            },
            validate_status: |new, old, errors| {
                conditions(new, errors);
                if !text_at(old, "status.certificate").is_empty() {
                    immutable(new, old, &["status.certificate"], errors);
                }
                decisions_stay(new, old, errors);
            },
            parts: &[("approval", "conditions")],
            columns: COLUMNS,
            cells: |object, now| {
                let request = object.value();
                let duration = at(request, "spec.expirationSeconds").as_i64();
                let duration = duration.map_or_else(|| "<none>".to_owned(), age::of_seconds);
                vec![
                    row::name(object),
                    row::age(object, now),
                    json!(text_at(request, "spec.signerName")),
                    json!(text_at(request, "spec.username")),
                    json!(duration),
                    json!(state(request)),
                ]
            },
            fields: &[("spec.signerName", |request| row::field_text(request, "/spec/signerName"))],
            name_rule: names::dns_subdomain,
            ..Hooks::NONE
        },
    )]
}

/// Who asks is what the connection says, not what the object says.
fn note_requester(world: &World<'_>, request: &Request, object: &mut Value) {
    let now = time::rfc3339(world.now);
    match &*request.target.subresource {
        "" => {
            let Some(spec) = fields::object(object, "spec") else { return };
            let user = &request.user;
            fields::set(spec, "username", &*user.name);
            fields::set(spec, "groups", user.groups.iter().map(|group| json!(&**group)).collect::<Vec<_>>());
            match &user.uid {
                Some(uid) => fields::set(spec, "uid", &**uid),
                None => fields::remove(spec, "uid"),
            }
            let extra: serde_json::Map<String, Value> =
                user.extra.iter().map(|(key, values)| (key.to_string(), json!(values))).collect();
            if extra.is_empty() {
                fields::remove(spec, "extra");
            } else {
                fields::set(spec, "extra", extra);
            }
            if list_at(spec, "usages").is_empty() {
                fields::set(spec, "usages", json!(["digital signature", "key encipherment"]));
            }
        }
        _ => {
            let Some(status) = object.get_mut("status") else { return };
            for condition in fields::each(status, "conditions") {
                fields::default(condition, "status", "True");
                fields::default(condition, "lastUpdateTime", &*now);
                fields::default(condition, "lastTransitionTime", &*now);
            }
        }
    }
}

/// Who approves or signs must be allowed to for that signer, beyond being allowed to write the part of the object.
fn may_decide(world: &World<'_>, request: &Request, new: &Value, old: Option<&Value>) -> StatusResult<()> {
    let is_issued = |request: &Value| at(request, "status.certificate").clone();
    let verb = match &*request.target.subresource {
        "approval" => "approve",
        "status" if old.is_none_or(|old| is_issued(old) != is_issued(new)) => "sign",
        _ => return Ok(()),
    };
    let signer = text_at(new, "spec.signerName");
    let index = Index::of(&world.view);
    let may = |name: &str| {
        let wish = Attributes { verb, group: GROUP, resource: "signers", name, ..Attributes::default() };
        index.allows(&request.user, &Wish::Object(wish))
    };
    // A right to `example.com/*` is one to all signers of that domain.
    let domain = signer.split('/').next().unwrap_or_default();
    if may(signer) || may(&format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(&request.target.resource, &request.target.name, why))
}

fn validate(request: &Value, errors: &mut Errors) {
    let spec = Part { value: at(request, "spec"), path: "spec" };
    spec.required("request", errors);
    spec.required("signerName", errors);
    let signer = text_at(spec.value, "signerName");
    if !signer.is_empty()
        && !signer.split_once('/').is_some_and(|(domain, path)| domain.contains('.') && !path.is_empty())
    {
        errors.invalid(
            "spec.signerName",
            signer,
            "must be a fully qualified domain and path of the form \"example.com/signer-name\"",
        );
    }
    if !spec.is_set("usages") {
        errors.required("spec.usages", "");
    }
    let mut seen = Vec::new();
    for (path, usage) in each(request, "spec.usages") {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            errors.not_supported(&path, usage, USAGES);
        }
        if seen.contains(&usage) {
            errors.duplicate(&path, usage);
        }
        seen.push(usage);
    }
    spec.at_least("expirationSeconds", DURATION_MIN_SECONDS, errors);
}

fn conditions(request: &Value, errors: &mut Errors) {
    let has = |wanted: &str| {
        list_at(request, "status.conditions").iter().any(|condition| text_at(condition, "type") == wanted)
    };
    if has("Approved") && has("Denied") {
        errors.invalid("status.conditions", "Denied", "Approved and Denied conditions are mutually exclusive");
    }
    let mut types = Vec::new();
    for (path, condition) in each(request, "status.conditions") {
        let part = Part { value: condition, path: &path };
        part.required("type", errors);
        let type_ = text_at(condition, "type");
        if ["Approved", "Denied", "Failed"].contains(&type_) && text_at(condition, "status") != "True" {
            errors.not_supported(part.path_of("status"), text_at(condition, "status"), &["True"]);
        }
        if types.contains(&type_) {
            errors.duplicate(part.path_of("type"), type_);
        }
        types.push(type_);
    }
}

/// What was decided is not undone.
fn decisions_stay(new: &Value, old: &Value, errors: &mut Errors) {
    for type_ in ["Approved", "Denied", "Failed"] {
        let of = |request: &Value| {
            list_at(request, "status.conditions").iter().filter(|condition| text_at(condition, "type") == type_).count()
        };
        if of(new) < of(old) {
            errors.forbidden("status.conditions", &format!("updates may not remove a condition of type {type_:?}"));
        }
    }
}

fn state(request: &Value) -> String {
    let types: Vec<&str> =
        list_at(request, "status.conditions").iter().map(|condition| text_at(condition, "type")).collect();
    let mut state = match types.as_slice() {
        types if types.contains(&"Denied") => "Denied".to_owned(),
        types if types.contains(&"Approved") => "Approved".to_owned(),
        _ => "Pending".to_owned(),
    };
    if types.contains(&"Failed") {
        state.push_str(",Failed");
    }
    if !text_at(request, "status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}
