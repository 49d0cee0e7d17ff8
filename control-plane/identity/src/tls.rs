//! TLS as both sides speak it: rustls' safe versions, one provider, the cluster's authority and nothing else.

use std::sync::Arc;

use copepod_api::User;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    IdentityError, Issued,
    authority::{der, fingerprint},
};

/// Sessions that a client may resume. All servers of a cluster go by one name, and of each name rustls keeps eight. The room is taken
/// from the beginning: for the 256 that are usual it is 14 KiB of an agent.
const SESSIONS: usize = 8;

/// For servers. Clients may come without a certificate (to join, or to ask for health); one that they show must be of
/// this cluster. The server shows the authority as well, so that a joining machine can compare its fingerprint.
pub fn server_config(authority_pem: &str, issued: &Issued) -> Result<ServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority_pem)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| IdentityError::Pem(error.to_string()))?;
    let chain = vec![der(&issued.certificate_pem)?, der(authority_pem)?];
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key(&issued.key_pem)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For clients that know the cluster; `client` is their certificate and key, PEM. No ALPN is set: the caller does.
pub fn client_config(authority_pem: &str, client: Option<(&str, &str)>) -> Result<ClientConfig, IdentityError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authority_pem)?);
    let mut config = match client {
        Some((certificate, private)) => builder.with_client_auth_cert(vec![der(certificate)?], key(private)?)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// For machines that join: they know only the fingerprint of the authority, from their token. The server's certificate
/// must come from the authority it shows, and that authority must be the one of the fingerprint.
pub fn pinned_client_config(fingerprint: &str) -> Result<ClientConfig, IdentityError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            fingerprint: fingerprint.to_owned(),
            provider: provider(),
        }))
        .with_no_client_auth();
    Ok(config)
}

/// The user that a verified client certificate names (Kubernetes: CN is the name, each O a group).
pub fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    let mut groups: Vec<Arc<str>> =
        parsed.subject().iter_organization().filter_map(|group| group.as_str().ok()).map(Arc::from).collect();
    groups.push("system:authenticated".into());
    Some(User { name: name.into(), groups, ..User::default() })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(authority_pem: &str) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(der(authority_pem)?)?;
    Ok(roots)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| IdentityError::Pem(format!("not a PEM key: {error}")))
}

#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| fingerprint(certificate) == self.fingerprint)
            .ok_or_else(|| Error::General("the server is not of the cluster that the token is for".to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
