//! Whom to believe who is no part of the cluster: programs that a `caBundle` vouches for.
//!
//! A bundle names authorities. Where it holds the very certificate that a program shows, that is enough as well, whatever
//! else the certificate says of itself: people make themselves one with one command, and it calls itself an authority and
//! is shown by a program at the same time. Its name, its time and the proof that the program holds its key are checked as
//! ever.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::IdentityError;

/// Certificates that are believed, or that sign those that are.
#[derive(Debug)]
pub struct Trust {
    own: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Trust {
    /// These, which somebody named.
    pub fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Arc<Trust>, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        Trust::with(certificates, roots)
    }

    /// What a machine trusts by itself.
    pub fn in_roots(roots: RootCertStore) -> Result<Arc<Trust>, IdentityError> {
        Trust::with(Vec::new(), roots)
    }

    fn with(own: Vec<CertificateDer<'static>>, roots: RootCertStore) -> Result<Arc<Trust>, IdentityError> {
        let provider = Arc::new(ring::default_provider());
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authorities = authorities.map_err(|error| IdentityError::Pem(error.to_string()))?;
        Ok(Arc::new(Trust { own, authorities }))
    }
}

/// It is good at this time and for this name.
fn is_good(certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.iter().any(|own| own == shown) {
            return is_good(shown, name, now).map(|()| ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(shown, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, IsCa, KeyPair};

    use super::*;

    /// What `openssl req -x509` makes: an authority that a program shows as its own certificate.
    fn self_made(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verified(trust: &Trust, shown: &CertificateDer<'_>, name: &str, day: u64) -> Result<(), String> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(day * 24 * 3600));
        trust.verify_server_cert(shown, &[], &name, &[], now).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_that_the_bundle_holds_is_believed_in_its_time_and_name() {
        const JUNE: u64 = 20_600;
        const TWO_YEARS_LATER: u64 = JUNE + 730;
        let own = self_made("hook.default.svc");
        let trust = Trust::of(vec![own.clone()]).unwrap();
        verified(&trust, &own, "hook.default.svc", JUNE).unwrap();
        assert!(verified(&trust, &own, "other.default.svc", JUNE).unwrap_err().contains("not valid for name"));
        assert!(verified(&trust, &own, "hook.default.svc", TWO_YEARS_LATER).unwrap_err().contains("Expired"));
        assert!(verified(&trust, &own, "hook.default.svc", 0).unwrap_err().contains("NotValidYet"));
        assert!(verified(&trust, &self_made("hook.default.svc"), "hook.default.svc", JUNE).is_err());
    }
}
