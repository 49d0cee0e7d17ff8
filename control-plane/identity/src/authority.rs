//! The cluster's certificate authority.

use std::time::Duration;

use copepod_api::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::{SERVER_NAME, SERVERS_GROUP};

/// The authority outlives every certificate it issues; replacing it means joining all machines again.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// A server issues its own certificate anew at each start.
const SERVER_VALIDITY: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// Clocks of machines differ: a certificate is good from a little before it was made.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Names and addresses under which clients know a server besides [`SERVER_NAME`]: the service inside the cluster.
const SERVER_NAMES: [&str; 8] = [
    SERVER_NAME,
    "localhost",
    "127.0.0.1",
    "10.96.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Pem(String),
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Holds the authority's key; every server has it.
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, for a new cluster.
    pub fn create(now: Timestamp) -> Result<Authority, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // The name is made of the key, so that certificates of two clusters are told apart by their issuer.
        let id = &hex(&Sha256::digest(key.public_key_raw()))[..12];
        params.distinguished_name = subject(&format!("copepod-{id}"), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = period(now, AUTHORITY_VALIDITY);
        let pem = params.self_signed(&key)?.pem();
        Authority::from_pem(&pem, &key.serialize_pem())
    }

    pub fn from_pem(certificate: &str, key: &str) -> Result<Authority, IdentityError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Authority { certificate_pem: certificate.to_owned(), certificate: der(certificate)?, issuer })
    }

    /// Certificate and key.
    pub fn to_pem(&self) -> (String, String) {
        (self.certificate_pem.clone(), self.issuer.key().serialize_pem())
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Hex SHA-256 of the certificate's DER: what tokens carry, so that a joining machine knows the right cluster.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    /// For a server: it is a server to clients and a client to other servers. `host` is where it is reached today, for
    /// clients that know it by that alone.
    pub fn issue_server(&self, name: &str, host: &str, now: Timestamp) -> Result<Issued, IdentityError> {
        let mut names: Vec<String> = SERVER_NAMES.iter().map(|name| (*name).to_owned()).collect();
        if !host.is_empty() && !SERVER_NAMES.contains(&host) {
            names.push(host.to_owned());
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject(&format!("system:server:{name}"), Some(SERVERS_GROUP));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, now, SERVER_VALIDITY)
    }

    pub fn issue_client(
        &self,
        user: &str,
        group: &str,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Issued, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, now, validity)
    }

    /// A client certificate for the key of a request (PEM). The request's own subject and names are ignored: the caller
    /// decides who the requester is, and the request only proves that it holds the key.
    pub fn sign_request(
        &self,
        request: &str,
        user: &str,
        group: &str,
        now: Timestamp,
        validity: Duration,
    ) -> Result<String, IdentityError> {
        let mut request = CertificateSigningRequestParams::from_pem(request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = period(now, validity);
        request.params = params;
        self.sign_parsed(request)
    }

    pub(crate) fn sign_parsed(&self, request: CertificateSigningRequestParams) -> Result<String, IdentityError> {
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    pub(crate) fn issue(
        &self,
        mut params: CertificateParams,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = period(now, validity);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

pub(crate) fn der(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| IdentityError::Pem(format!("not a PEM certificate: {error}")))
}

pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

pub(crate) fn period(now: Timestamp, validity: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::from_unix_timestamp(now.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    (now - CLOCK_SKEW, now + validity)
}
