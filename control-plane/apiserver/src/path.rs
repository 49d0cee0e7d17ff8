//! What a path names.

use std::sync::Arc;

use copepod_api::{Resource, Status, StatusResult, Target};
use copepod_registry::{Catalog, Row};

use crate::reviews::{self, Review};

/// Longer paths than any name allows are not looked at.
const PATH_BYTES_MAX: usize = 4096;

pub enum Place {
    /// One check, or all.
    Health(Probe, Option<String>),
    Metrics,
    Version,
    /// `/`: the paths there are.
    Root,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Resources {
        group: String,
        version: String,
    },
    OpenApiV2,
    /// `/openapi/v3` or a document below it.
    OpenApi(Option<String>),
    /// Who issues tokens: `/.well-known/openid-configuration`.
    Issuer,
    /// The keys that tokens are checked with: `/openid/v1/jwks`.
    IssuerKeys,
    Object(Asked),
    /// A question that is posted and answered and never stored.
    Review {
        review: &'static Review,
        namespace: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Healthy,
    Alive,
    Ready,
}

/// A collection (no name), an object, or a part of one.
#[derive(Clone)]
pub struct Asked {
    pub row: Arc<Row>,
    /// Empty for cluster-scoped kinds, and for all namespaces.
    pub namespace: String,
    pub name: String,
    pub subresource: String,
}

impl Asked {
    pub fn target(&self) -> Target {
        Target {
            resource: self.row.kind.resource(),
            version: self.row.kind.version.as_ref().into(),
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
            subresource: self.subresource.as_str().into(),
        }
    }

    pub fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(&*self.namespace)
    }
}

impl Place {
    pub fn of(path: &str, catalog: &Catalog) -> StatusResult<Place> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Status::new(
                414,
                "RequestURITooLong",
                format!("the path has more than {PATH_BYTES_MAX} bytes"),
            ));
        }
        let segments: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(decoded)
            .collect::<StatusResult<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [] => Ok(Place::Root),
            ["healthz", check @ ..] => Ok(health(Probe::Healthy, check)),
            ["livez", check @ ..] => Ok(health(Probe::Alive, check)),
            ["readyz", check @ ..] => Ok(health(Probe::Ready, check)),
            ["metrics"] => Ok(Place::Metrics),
            ["version"] => Ok(Place::Version),
            [".well-known", "openid-configuration"] => Ok(Place::Issuer),
            ["openid", "v1", "jwks"] => Ok(Place::IssuerKeys),
            ["openapi", "v2"] => Ok(Place::OpenApiV2),
            ["openapi", "v3"] => Ok(Place::OpenApi(None)),
            ["openapi", "v3", rest @ ..] => Ok(Place::OpenApi(Some(rest.join("/")))),
            ["api"] => Ok(Place::CoreVersions),
            ["apis"] => Ok(Place::Groups),
            ["apis", group] => Ok(Place::Group((*group).to_owned())),
            ["api", version] => Ok(Place::Resources { group: String::new(), version: (*version).to_owned() }),
            ["apis", group, version] => {
                Ok(Place::Resources { group: (*group).to_owned(), version: (*version).to_owned() })
            }
            ["api", version, rest @ ..] => object(catalog, "", version, rest),
            ["apis", group, version, rest @ ..] if !group.is_empty() => object(catalog, group, version, rest),
            _ => Err(Status::no_such_path()),
        }
    }
}

fn health(probe: Probe, check: &[&str]) -> Place {
    Place::Health(probe, (!check.is_empty()).then(|| check.join("/")))
}

fn object(catalog: &Catalog, group: &str, version: &str, rest: &[&str]) -> StatusResult<Place> {
    let (namespace, rest) = match rest {
        // `namespaces` is a kind of its own and the way into one.
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        // The rest is the path of somebody else.
        [plural, name, "proxy", ..] => (*plural, *name, "proxy"),
        _ => return Err(Status::no_such_path()),
    };
    if let Some(review) = reviews::find(group, version, plural, namespace).filter(|_| name.is_empty()) {
        return Ok(Place::Review { review, namespace: namespace.to_owned() });
    }
    let resource = Resource::new(group.to_owned(), plural.to_owned());
    let row = catalog
        .row(&resource, version)
        .filter(|row| row.kind.is_namespaced() || namespace.is_empty())
        .filter(|row| subresource.is_empty() || row.kind.subresource(subresource).is_some())
        .ok_or_else(Status::no_such_path)?;
    Ok(Place::Object(Asked {
        row: row.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    }))
}

/// Percent-decoding.
pub fn decoded(segment: &str) -> StatusResult<String> {
    if !segment.contains('%') {
        return Ok(segment.to_owned());
    }
    let malformed = || Status::bad_request(format!("the path is not properly escaped: {segment:?}"));
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = digit(rest.next()).zip(digit(rest.next())).ok_or_else(malformed)?;
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}
