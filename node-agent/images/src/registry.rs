//! Speaks with one registry: the reading half of the OCI distribution protocol.
//!
//! Our own, over hyper, rather than a client crate: what is needed is one verb, and around it things that decide how an
//! agent behaves and that crates decide otherwise: every body is bounded, a registry that stalls is left, mirrors have
//! paths, a login never follows a redirect to another host, a machine without certificates still reaches its local
//! registry, and a refusal is told in the words of who refused.

use std::{
    error::Error,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Deserialize;
use tokio::time::timeout;

use crate::{Credential, Digest, ImageError, Reference, document::DOCUMENT_BYTES_MAX, proxy::Connector};

/// How long a registry may be silent in the middle of an answer. Some fetch the content from elsewhere first.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Registries send once to a content network; more is a loop.
const REDIRECTS_MAX: usize = 8;

/// Of what a registry says about a refusal, for a message that is read in a table.
const REASON_CHARS_MAX: usize = 300;

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// Where to ask for a registry's images: the registry itself or a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io`, `http://10.0.0.1:5000/hub`.
    pub base: String,
    pub is_mirror: bool,
}

impl Endpoint {
    /// The registry itself. Encrypted, but on loopback, where a registry without certificates is the custom; one that
    /// has some can be named as a mirror of itself.
    pub fn origin(registry: &str) -> Endpoint {
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme = if is_loopback(host) { "http" } else { "https" };
        Endpoint { base: format!("{scheme}://{host}"), is_mirror: false }
    }

    pub fn mirror(url: &str) -> Result<Endpoint, ImageError> {
        let base = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let base = base.trim_end_matches('/').trim_end_matches("/v2").to_owned();
        let valid = base.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() && uri.query().is_none()
        });
        if !valid {
            return Err(ImageError::InvalidName(format!(
                "{url:?} is no address of a mirror; write it like http://10.0.0.1:5000"
            )));
        }
        Ok(Endpoint { base, is_mirror: true })
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What kept us from an answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another login may help.
    Login(String),
    /// It does not have what was asked for.
    Missing(String),
    /// It sent something that must not be used.
    Content(String),
    /// It could not be reached, or broke off; trying again may help.
    Unreachable(String),
}

impl Refusal {
    pub fn reason(&self) -> &str {
        match self {
            Refusal::Login(reason)
            | Refusal::Missing(reason)
            | Refusal::Content(reason)
            | Refusal::Unreachable(reason) => reason,
        }
    }
}

/// One conversation about one repository.
pub(crate) struct Registry<'a> {
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    login: Option<&'a Credential>,
    client: Client<HttpsConnector<Connector>, Empty<Bytes>>,
    /// Found out with the first refusal, and then sent with every request.
    authorization: Mutex<Option<HeaderValue>>,
}

impl<'a> Registry<'a> {
    pub fn new(endpoint: &'a Endpoint, reference: &'a Reference, login: Option<&'a Credential>) -> Registry<'a> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls().clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector::new());
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Registry { endpoint, reference, login, client, authorization: Mutex::new(None) }
    }

    /// A manifest or index, verified if it was asked for by digest.
    pub async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes, Refusal> {
        let name = match digest {
            Some(digest) => digest.to_string(),
            None => self.reference.tag().unwrap_or("latest").to_owned(),
        };
        let response = self.get(&format!("manifests/{name}"), None).await?;
        let body = bounded(response.into_body(), &self.endpoint.base).await?;
        match digest {
            Some(digest) if Digest::of(&body) != *digest => Err(Refusal::Content(format!(
                "{} sent {} when asked for {digest}",
                self.endpoint.base,
                Digest::of(&body)
            ))),
            _ => Ok(body),
        }
    }

    /// A blob from a byte on. With the position at which the answer begins: the one asked for, or the beginning.
    pub async fn blob(&self, digest: &Digest, from: u64) -> Result<(u64, Content), Refusal> {
        let response = self.get(&format!("blobs/{digest}"), (from > 0).then_some(from)).await?;
        let begins = if response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 };
        Ok((begins, Content { base: self.endpoint.base.clone(), body: response.into_body() }))
    }

    async fn get(&self, path: &str, from: Option<u64>) -> Result<Response<Incoming>, Refusal> {
        // Mirrors that serve several registries want to know whose image is meant.
        let namespace =
            if self.endpoint.is_mirror { format!("?ns={}", self.reference.registry()) } else { String::new() };
        let url = format!("{}/v2/{}/{path}{namespace}", self.endpoint.base, self.reference.repository());
        let authorization = self.authorization.lock().unwrap_or_else(|lock| lock.into_inner()).clone();
        let response = self.follow(&url, from, authorization.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(response).await;
        }
        // Now we know how it wants to be asked; or the token, which lives for minutes, has ended before the layers did.
        let challenges: Vec<HeaderValue> =
            response.headers().get_all(header::WWW_AUTHENTICATE).iter().cloned().collect();
        let refused = response;
        let again = self.authorize(&challenges).await?.filter(|again| authorization.as_ref() != Some(again));
        let Some(authorization) = again else {
            return self.accepted(refused).await;
        };
        *self.authorization.lock().unwrap_or_else(|lock| lock.into_inner()) = Some(authorization.clone());
        self.accepted(self.follow(&url, from, Some(&authorization)).await?).await
    }

    async fn authorize(&self, challenges: &[HeaderValue]) -> Result<Option<HeaderValue>, Refusal> {
        let challenges: Vec<Challenge> =
            challenges.iter().filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        if let Some(Challenge::Bearer { realm, service }) =
            challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }))
        {
            return self.token(realm, service.as_deref()).await.map(Some);
        }
        let basic = challenges.iter().any(|challenge| matches!(challenge, Challenge::Basic));
        Ok(self.login.filter(|_| basic).map(basic_authorization))
    }

    /// Fetches a token from the server that the registry trusts.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<HeaderValue, Refusal> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let uri: Uri = realm.parse().map_err(|_| {
            Refusal::Content(format!("{} wants a token from {realm:?}, which is no address", self.base()))
        })?;
        // A password is not sent in the clear because an encrypted registry asks for it.
        if self.login.is_some() && self.base().starts_with("https:") && uri.scheme_str() != Some("https") {
            return Err(Refusal::Login(format!("{} wants a password sent unencrypted to {realm}", self.base())));
        }
        let mut url = format!("{realm}{}", if realm.contains('?') { '&' } else { '?' });
        if let Some(service) = service {
            url.push_str(&format!("service={}&", escape(service)));
        }
        url.push_str(&format!("scope={}", escape(&format!("repository:{}:pull", self.reference.repository()))));
        let response = self.follow(&url, None, self.login.map(basic_authorization).as_ref()).await?;
        let response = match response.status() {
            StatusCode::OK => response,
            // What is not told apart by token servers: a wrong password, and a name that nobody may see.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Refusal::Login(format!("{realm} {}", self.refuses_login())));
            }
            _ => {
                return self.accepted(response).await.and(Err(Refusal::Unreachable(format!("{realm} gives no token"))));
            }
        };
        let body = bounded(response.into_body(), realm).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|error| Refusal::Content(format!("{realm} sent no token: {error}")))?;
        let token = token.token.or(token.access_token).unwrap_or_default();
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Refusal::Content(format!("{realm} sent a token that cannot be sent on")))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Sends a request, and after it where the answers point.
    async fn follow(
        &self,
        url: &str,
        from: Option<u64>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Refusal> {
        let mut uri: Uri = url.parse().map_err(|error| Refusal::Content(format!("{url:?} is no address: {error}")))?;
        let first = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPTED));
            headers
                .insert(header::USER_AGENT, HeaderValue::from_static(concat!("copepod/", env!("CARGO_PKG_VERSION"))));
            if let Some(from) = from {
                insert(headers, header::RANGE, format!("bytes={from}-"));
            }
            // To the same host by the same scheme only: content networks get an address that needs no login.
            if let Some(authorization) = authorization
                && (uri.scheme(), uri.authority()) == (first.scheme(), first.authority())
            {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            let response = timeout(SILENCE_MAX, self.client.request(request))
                .await
                .map_err(|_| Refusal::Unreachable(format!("{} does not answer", host(&uri))))?
                .map_err(|error| Refusal::Unreachable(format!("{}: {}", host(&uri), chain(&error))))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            uri = location.and_then(|location| relative(&uri, location)).ok_or_else(|| {
                Refusal::Content(format!("{} points somewhere else without saying where", host(&uri)))
            })?;
        }
        Err(Refusal::Content(format!("{} sends from one address to the next without end", host(&first))))
    }

    /// Turns an answer that is none into a refusal, with the reason that it gives.
    async fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Refusal> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let base = self.base();
        let body = bounded(response.into_body(), base).await.unwrap_or_default();
        let said = reason(status, &body);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Refusal::Login(format!("{base} {}: {said}", self.refuses_login()))
            }
            StatusCode::NOT_FOUND => Refusal::Missing(format!("{base} does not have it: {said}")),
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                Refusal::Content(format!("{base} refuses: {said}"))
            }
            _ => Refusal::Unreachable(format!("{base} fails: {said}")),
        })
    }

    fn refuses_login(&self) -> String {
        match self.login {
            Some(login) => format!("refuses {}", login.username),
            None => "wants a login, or the image does not exist".to_owned(),
        }
    }

    fn base(&self) -> &str {
        &self.endpoint.base
    }
}

/// The bytes of an answer as they come.
pub(crate) struct Content {
    base: String,
    body: Incoming,
}

impl Content {
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = timeout(SILENCE_MAX, self.body.frame())
                .await
                .map_err(|_| Refusal::Unreachable(format!("{} fell silent", self.base)))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Refusal::Unreachable(format!("{} broke off: {}", self.base, chain(&error))));
                }
                // Trailers say nothing that we need.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_) => continue,
                },
            }
        }
    }
}

async fn bounded(body: Incoming, whose: &str) -> Result<Bytes, Refusal> {
    let mut content = Content { base: whose.to_owned(), body };
    let mut bytes = Vec::new();
    while let Some(more) = content.next().await? {
        bytes.extend_from_slice(&more);
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Refusal::Content(format!("{whose} sends more than a document may have")));
        }
    }
    Ok(bytes.into())
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Bearer { realm: String, service: Option<String> },
    Basic,
}

impl Challenge {
    /// `Bearer realm="https://auth.example.com/token",service="registry"`.
    fn parse(text: &str) -> Option<Challenge> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match key.trim().trim_start_matches(',').trim() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => (),
            }
            rest = after;
        }
        Some(Challenge::Bearer { realm: realm?, service })
    }
}

fn basic_authorization(login: &Credential) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{}:{}", login.username, login.password));
    // Base64 has no character that a header could not hold.
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// What the registry says: its own words if it speaks the protocol, else the beginning of whatever it sent.
fn reason(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let said = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let said = errors.iter().map(|said| match said.message.as_str() {
                "" => said.code.clone(),
                message => message.to_owned(),
            });
            said.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let said: String = said.chars().filter(|character| !character.is_control()).take(REASON_CHARS_MAX).collect();
    if said.is_empty() { status.to_string() } else { format!("{said} ({status})") }
}

fn relative(from: &Uri, location: &str) -> Option<Uri> {
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", from.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?)
    } else {
        let directory = from.path().rsplit_once('/').map(|(directory, _)| directory).unwrap_or_default();
        format!("{}://{}{directory}/{location}", from.scheme_str()?, from.authority()?)
    };
    absolute.parse().ok().filter(|uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")))
}

fn host(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("https");
    format!("{scheme}://{}", uri.authority().map(|authority| authority.as_str()).unwrap_or_default())
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(name, value);
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn chain(error: &dyn Error) -> String {
    let mut reasons = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        // Some layers only repeat what is below them.
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
        source = error.source();
    }
    reasons.join(": ")
}

/// Reading the machine's certificates takes milliseconds; once is enough.
fn tls() -> &'static rustls::ClientConfig {
    static TLS: OnceLock<rustls::ClientConfig> = OnceLock::new();
    TLS.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            tracing::warn!("this machine has no CA certificates: only registries without encryption can be reached");
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            // Ring has both of the versions that are safe; this is about providers that lack one.
            .expect("the ring provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        assert_eq!(
            Challenge::parse(r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:a:pull,push""#),
            bearer("https://a.io/token", Some("r.io"))
        );
        assert_eq!(Challenge::parse("bearer service=x, realm=https://a.io"), bearer("https://a.io", Some("x")));
        assert_eq!(Challenge::parse(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Bearer"), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        let base = |registry: &str| Endpoint::origin(registry).base;
        assert_eq!(base("localhost:5000"), "http://localhost:5000");
        assert_eq!(base("127.0.0.9"), "http://127.0.0.9");
        assert_eq!(base("[::1]:5000"), "http://[::1]:5000");
        assert_eq!(base("docker.io"), "https://registry-1.docker.io");
        assert_eq!(base("localhost.example.com"), "https://localhost.example.com");
    }

    #[test]
    fn mirrors_are_addresses() {
        assert_eq!(Endpoint::mirror("http://10.0.0.1:5000/hub/").unwrap().base, "http://10.0.0.1:5000/hub");
        assert_eq!(Endpoint::mirror("mirror.example.com").unwrap().base, "https://mirror.example.com");
        for url in ["", "ftp://a", "http://", "http://a b", "http://a?b"] {
            assert!(Endpoint::mirror(url).is_err(), "{url:?}");
        }
    }
}
