//! What the API offers, derived from the registry's rows.

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use copepod_api::{Kind, Scope, Status, StatusResult, User, openapi};
use copepod_registry::{Catalog, Row};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ETAG, IF_NONE_MATCH, VARY},
    request::Parts,
};
use serde_json::{Value, json};

use crate::{
    accept::{self, Encoding},
    aggregation::{Registrations, told::Versions},
    answer,
    forward::{self, ForLeader},
    front::Front,
    path::Place,
    reviews,
};

/// How a client wants to be told.
#[derive(Clone, Copy)]
enum Form {
    /// Each path for itself.
    Plain(Encoding),
    /// Everything below `/api` or `/apis` in one document, of this version. Clients look for exactly this content type.
    Aggregated { version: &'static str, content_type: &'static str },
}

const AGGREGATED: [Form; 2] = [
    Form::Aggregated {
        version: "v2",
        content_type: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    },
    Form::Aggregated {
        version: "v2beta1",
        content_type: "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    },
];

impl Form {
    /// The first that the client names and that there is.
    fn of(headers: &HeaderMap, place: &Place) -> StatusResult<Form> {
        let mut ranges = accept::ranges(headers).peekable();
        if ranges.peek().is_none() {
            return Ok(Form::Plain(Encoding::Json));
        }
        let can_aggregate = matches!(place, Place::CoreVersions | Place::Groups);
        let known = ranges.find_map(|range| {
            let encoding = match range.media.as_str() {
                "application/json" | "application/*" | "*/*" => Encoding::Json,
                "application/yaml" => Encoding::Yaml,
                copepod_protobuf::MEDIA_TYPE => Encoding::Protobuf,
                _ => return None,
            };
            let is_aggregated = encoding == Encoding::Json && range.parameter("g") == Some("apidiscovery.k8s.io");
            match range.parameter("as") {
                None => Some(Form::Plain(encoding)),
                Some("APIGroupDiscoveryList") if is_aggregated && can_aggregate => {
                    let asked = range.parameter("v");
                    AGGREGATED
                        .into_iter()
                        .find(|form| matches!(form, Form::Aggregated { version, .. } if Some(*version) == asked))
                }
                Some(_) => None,
            }
        });
        known.ok_or_else(|| {
            Status::not_acceptable(
                "only the following media types are accepted: application/json, application/yaml, \
                 application/vnd.kubernetes.protobuf",
            )
        })
    }
}

/// All that there is to be told of.
pub struct Offer<'a> {
    pub catalog: &'a Catalog,
    pub registrations: &'a Registrations,
    /// What programs serve, where they were asked.
    pub versions: Versions,
}

/// Whether the client wants everything in one document: then programs have to be asked what they serve.
pub fn is_aggregated(place: &Place, headers: &HeaderMap) -> bool {
    matches!(place, Place::Groups) && matches!(Form::of(headers, place), Ok(Form::Aggregated { .. }))
}

/// Programs are reached through the leader, so where there are some, it answers.
pub async fn at_leader(
    front: &Front,
    request: &Parts,
    is_forwarded: bool,
    user: &User,
    registrations: &Registrations,
) -> StatusResult<Option<Response>> {
    if registrations.remotes().next().is_none() {
        return Ok(None);
    }
    let asked = ForLeader {
        user,
        method: &request.method,
        uri: &request.uri,
        headers: &request.headers,
        body: &Bytes::new(),
        is_forwarded,
    };
    match forward::to_leader(&*front.door, front.config.forwarder.as_ref(), &asked).await? {
        forward::Place::Here => Ok(None),
        forward::Place::Done(response) => Ok(Some(response)),
    }
}

pub fn answer(place: &Place, offer: &Offer<'_>, headers: &HeaderMap) -> StatusResult<Response> {
    let encoding = match Form::of(headers, place)? {
        Form::Aggregated { version, content_type } => {
            let is_core = matches!(place, Place::CoreVersions);
            let document = everything(offer, is_core, version).to_string();
            return Ok(tagged(answer::typed(200, content_type, document.clone()), document.as_bytes(), headers));
        }
        Form::Plain(encoding) => encoding,
    };
    let document = match place {
        Place::CoreVersions => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        Place::Groups => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups(offer).iter().filter(|(group, _)| !group.is_empty()).map(|(group, versions)| api_group(group, versions)).collect::<Vec<_>>(),
        }),
        Place::Group(name) => {
            let versions = groups(offer).into_iter().find(|(group, _)| group == name && !group.is_empty());
            let (group, versions) = versions.ok_or_else(Status::no_such_path)?;
            let mut group = api_group(group, &versions);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }
        Place::Resources { group, version } => resources(offer, group, version)?,
        _ => {
            let mut paths: Vec<String> = vec!["/api".to_owned(), "/apis".to_owned()];
            for (group, versions) in groups(offer) {
                if !group.is_empty() {
                    paths.push(format!("/apis/{group}"));
                }
                paths.extend(versions.iter().map(|version| openapi::group_path(group, version)));
            }
            paths.extend(
                [
                    "/.well-known/openid-configuration",
                    "/healthz",
                    "/livez",
                    "/metrics",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/openid/v1/jwks",
                    "/readyz",
                    "/version",
                ]
                .map(str::to_owned),
            );
            return Ok(answer::value(200, &json!({"paths": paths}), Encoding::Pretty));
        }
    };
    Ok(tagged(answer::value(200, &document, encoding), document.to_string().as_bytes(), headers))
}

/// Clients keep discovery and ask whether it changed.
fn tagged(mut response: Response, document: &[u8], headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", openapi::hash(document));
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|known| known.as_bytes() == tag.as_bytes());
    if is_known {
        response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// The groups with their versions, the preferred first, in the order of their priorities.
fn groups<'a>(offer: &'a Offer<'_>) -> Vec<(&'a str, Vec<&'a str>)> {
    let of_rows = offer.catalog.rows().iter().map(|row| (&*row.kind.group, &*row.kind.version));
    let of_reviews = reviews::ALL.iter().map(|review| (review.group, review.version));
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let of_programs = offer.registrations.remotes().map(|(group, version, _)| (group, version));
    for (group, version) in of_rows.chain(of_reviews).chain(of_programs) {
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    offer.registrations.sort(&mut groups);
    groups
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

fn rows_of<'a>(catalog: &'a Catalog, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Row>> {
    catalog.rows().iter().filter(move |row| row.kind.group == group && row.kind.version == version)
}

fn reviews_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static reviews::Review> + 'a {
    reviews::ALL.iter().filter(move |review| review.group == group && review.version == version)
}

/// `APIResourceList` of a group and version.
fn resources(offer: &Offer<'_>, group: &str, version: &str) -> StatusResult<Value> {
    if !groups(offer).iter().any(|(known, versions)| *known == group && versions.contains(&version)) {
        return Err(Status::no_such_path());
    }
    let mut resources = Vec::new();
    for row in rows_of(offer.catalog, group, version) {
        let kind = &row.kind;
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.is_namespaced(),
            "kind": kind.name, "verbs": row.verbs,
        });
        add_names(&mut resource, kind);
        resources.push(resource);
        for subresource in kind.subresources.iter() {
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, subresource.name), "singularName": "",
                "namespaced": kind.is_namespaced(), "kind": kind.name, "verbs": subresource.verbs,
            });
            if let Some((group, version, name)) = subresource.kind {
                resource["kind"] = json!(name);
                if (group, version) != (&kind.group, &kind.version) {
                    resource["group"] = json!(group);
                    resource["version"] = json!(version);
                }
            }
            resources.push(resource);
        }
    }
    for review in reviews_of(group, version) {
        resources.push(json!({
            "name": review.plural, "singularName": review.singular, "namespaced": review.is_namespaced,
            "kind": review.kind, "verbs": ["create"],
        }));
    }
    let group_version = openapi::group_path(group, version);
    let group_version = group_version.trim_start_matches("/apis/").trim_start_matches("/api/");
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

fn add_names(resource: &mut Value, kind: &Kind) {
    if !kind.short.is_empty() {
        resource["shortNames"] = json!(kind.short);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
}

/// Everything in one document: the core group, or all others.
fn everything(offer: &Offer<'_>, core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(offer)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    if offer.registrations.remote(group, version).is_some() {
                        let told = offer.versions.get(&(group.to_owned(), (*version).to_owned()));
                        let unknown = || json!({"version": version, "resources": [], "freshness": "Stale"});
                        return told.cloned().unwrap_or_else(unknown);
                    }
                    let mut resources: Vec<Value> =
                        rows_of(offer.catalog, group, version).map(|row| aggregated(row)).collect();
                    resources.extend(reviews_of(group, version).map(|review| {
                        json!({
                            "resource": review.plural, "singularResource": review.singular,
                            "scope": if review.is_namespaced { "Namespaced" } else { "Cluster" },
                            "responseKind": {"group": review.group, "version": review.version, "kind": review.kind},
                            "verbs": ["create"],
                        })
                    }));
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = json!(group);
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items,
    })
}

fn aggregated(row: &Row) -> Value {
    let kind = &row.kind;
    let response_kind = |group: &str, version: &str, name: &str| {
        BTreeMap::from([("group", group.to_owned()), ("version", version.to_owned()), ("kind", name.to_owned())])
    };
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind(&kind.group, &kind.version, &kind.name),
        "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": row.verbs,
    });
    add_names(&mut resource, kind);
    if !kind.subresources.is_empty() {
        let subresources = kind.subresources.iter().map(|subresource| {
            let (group, version, name) = subresource.kind.unwrap_or((&kind.group, &kind.version, &kind.name));
            json!({
                "subresource": subresource.name,
                "responseKind": response_kind(group, version, name),
                "verbs": subresource.verbs,
            })
        });
        resource["subresources"] = subresources.collect();
    }
    resource
}
