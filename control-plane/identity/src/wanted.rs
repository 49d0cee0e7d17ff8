//! Requests for certificates, as their senders made them (PKCS #10).
//!
//! Other than for machines that join, who decides whose certificate it becomes is whoever approved the request; what it
//! says is signed as it is.

use std::{net::IpAddr, time::Duration};

use copepod_api::Timestamp;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{Authority, IdentityError, authority::period};

/// Whom and what a request asks a certificate for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Alternative names of other kinds: mail addresses, URIs.
    pub has_other_names: bool,
}

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usages {
    pub server: bool,
    pub client: bool,
}

impl Wanted {
    /// Reads a request (PEM) and checks that its sender holds the key.
    pub fn read(pem: &str) -> Result<Wanted, IdentityError> {
        let malformed =
            |error: &dyn std::fmt::Display| IdentityError::Pem(format!("not a certificate request: {error}"));
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|error| malformed(&error))?;
        let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|error| malformed(&error))?;
        let subject = &parsed.certification_request_info.subject;
        let text = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            attributes.filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut wanted = Wanted {
            common_name: text(&mut subject.iter_common_name()).into_iter().next().unwrap_or_default(),
            organizations: text(&mut subject.iter_organization()),
            ..Wanted::default()
        };
        let request = CertificateSigningRequestParams::from_pem(pem)?;
        for name in request.params.subject_alt_names {
            match name {
                SanType::DnsName(name) => wanted.dns_names.push(name.to_string()),
                SanType::IpAddress(address) => wanted.addresses.push(address),
                _ => wanted.has_other_names = true,
            }
        }
        Ok(wanted)
    }
}

impl Authority {
    /// Signs a request (PEM) as it is, for these usages and never as another authority.
    pub fn sign_wanted(
        &self,
        pem: &str,
        usages: Usages,
        now: Timestamp,
        validity: Duration,
    ) -> Result<String, IdentityError> {
        let mut request = CertificateSigningRequestParams::from_pem(pem)?;
        let params = &mut request.params;
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = [
            usages.server.then_some(ExtendedKeyUsagePurpose::ServerAuth),
            usages.client.then_some(ExtendedKeyUsagePurpose::ClientAuth),
        ]
        .into_iter()
        .flatten()
        .collect();
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = period(now, validity);
        self.sign_parsed(request)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::{client_config, user_of_certificate};

    const HOUR: Duration = Duration::from_secs(3600);

    fn request(group: &str, names: &[&str]) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ada");
        params.distinguished_name.push(DnType::OrganizationName, group);
        (params.serialize_request(&key).unwrap().pem().unwrap(), key)
    }

    #[test]
    fn a_request_is_signed_as_it_is() {
        let authority = Authority::create(Timestamp::now()).unwrap();
        let (pem, key) = request("team", &["web.example", "10.0.0.1"]);
        let wanted = Wanted::read(&pem).unwrap();
        assert_eq!((&*wanted.common_name, &*wanted.organizations), ("ada", &["team".to_owned()][..]));
        assert_eq!((&*wanted.dns_names, wanted.addresses.len()), (&["web.example".to_owned()][..], 1));
        let usages = Usages { server: false, client: true };
        let signed = authority.sign_wanted(&pem, usages, Timestamp::now(), HOUR).unwrap();
        client_config(authority.certificate_pem(), Some((&signed, &key.serialize_pem()))).unwrap();
        let user = user_of_certificate(&crate::authority::der(&signed).unwrap()).unwrap();
        assert_eq!((&*user.name, &*user.groups[0]), ("ada", "team"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Wanted::read("nonsense").unwrap_err().to_string().contains("not a certificate request"));
        let (pem, _) = request("team", &[]);
        let broken = pem.replace("MI", "MJ");
        assert!(Wanted::read(&broken).is_err());
    }
}
