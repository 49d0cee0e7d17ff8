//! As whom servers speak for users to programs that serve groups of their own.
//!
//! Such a program believes what the headers of a request say of its user, if the request comes by a certificate of the
//! front proxy's authority. That authority issues nothing else: no certificate that a client of the cluster may ask for,
//! under whatever name, passes for the proxy, and the proxy's is worth nothing with our own servers.
//!
//! The authority is a Secret of kube-system, so all servers have it, and clusters that are older than it get it from
//! their leader. It may hold several, an annotation says which one issues, and programs are told to believe all: so one
//! can be known everywhere before it issues, and another go when nobody uses it any more.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use serde_json::{Value, json};

use crate::{
    Authority, FRONT_PROXY, IdentityError, Issued,
    authority::{der, subject},
};

/// Certificates are issued for one connection. They are good for longer than that only because clocks differ.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

const CERTIFICATE: &str = ".crt";
const KEY: &str = ".key";

/// The authority of the front proxy.
pub struct FrontProxy {
    issuer: Authority,
    bundle: String,
}

impl FrontProxy {
    pub const NAMESPACE: &str = "kube-system";
    pub const SECRET: &str = "front-proxy-authority";
    pub const SECRET_TYPE: &str = "copepod.io/front-proxy-authority";
    /// The annotation that names the authority that issues.
    pub const ACTIVE: &str = "copepod.io/issuing-authority";

    /// A Secret with one new authority.
    pub fn create(now: Timestamp) -> Result<Value, IdentityError> {
        let authority = Authority::create(now)?;
        let (certificate, key) = authority.to_pem();
        let name = authority.fingerprint();
        let encode = |text: String| BASE64_STANDARD.encode(text);
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "type": FrontProxy::SECRET_TYPE,
            "metadata": {
                "name": FrontProxy::SECRET, "namespace": FrontProxy::NAMESPACE,
                "annotations": {FrontProxy::ACTIVE: name},
            },
            "data": {format!("{name}{CERTIFICATE}"): encode(certificate), format!("{name}{KEY}"): encode(key)},
        }))
    }

    /// The authorities in a Secret. Certificates that are none are passed over, so that one mistake does not part the
    /// cluster from all its programs; the one that issues must be whole.
    pub fn read(secret: &Value) -> Result<FrontProxy, IdentityError> {
        let active = secret["metadata"]["annotations"][FrontProxy::ACTIVE].as_str().unwrap_or_default();
        let text = |entry: &Value| String::from_utf8(BASE64_STANDARD.decode(entry.as_str()?).ok()?).ok();
        let entries = secret["data"].as_object().into_iter().flatten();
        let entries: BTreeMap<&str, String> =
            entries.filter_map(|(name, entry)| Some((name.as_str(), text(entry)?))).collect();
        let part = |ending: &str| {
            let name = format!("{active}{ending}");
            let missing = || {
                IdentityError::Pem(format!(
                    "the Secret {}/{} has no {name:?}, although its annotation {} names {active:?}",
                    FrontProxy::NAMESPACE,
                    FrontProxy::SECRET,
                    FrontProxy::ACTIVE
                ))
            };
            entries.get(name.as_str()).ok_or_else(missing)
        };
        let issuer = Authority::from_pem(part(CERTIFICATE)?, part(KEY)?)?;
        let is_certificate = |(name, pem): &(&&str, &String)| name.ends_with(CERTIFICATE) && der(pem).is_ok();
        let bundle: Vec<&str> = entries.iter().filter(is_certificate).map(|(_, pem)| pem.trim_end()).collect();
        Ok(FrontProxy { issuer, bundle: bundle.join("\n") + "\n" })
    }

    /// All certificates by which programs know the proxy, PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// For a server that speaks to a program now.
    pub fn issue(&self, now: Timestamp) -> Result<Issued, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(FRONT_PROXY, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issuer.issue(params, now, VALIDITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::now()
    }

    #[test]
    fn programs_are_told_of_all_authorities_and_one_issues() {
        let (old, mut both) = (FrontProxy::create(now()).unwrap(), FrontProxy::create(now()).unwrap());
        let alone = FrontProxy::read(&both).unwrap();
        assert_eq!(alone.bundle(), alone.issuer.certificate_pem());
        // Of one that issues no more only the certificate has to stay.
        let (name, certificate) =
            old["data"].as_object().unwrap().iter().find(|(name, _)| name.ends_with(".crt")).unwrap();
        both["data"][name] = certificate.clone();
        both["data"]["mistake.crt"] = json!("aGVsbG8=");
        let read = FrontProxy::read(&both).unwrap();
        let old = FrontProxy::read(&old).unwrap();
        assert_eq!(read.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(read.bundle().contains(old.bundle().trim()) && read.bundle().contains(alone.bundle().trim()));
        assert_eq!(read.issuer.fingerprint(), alone.issuer.fingerprint());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut secret = FrontProxy::create(now()).unwrap();
        let name = secret["metadata"]["annotations"][FrontProxy::ACTIVE].as_str().unwrap().to_owned();
        secret["data"].as_object_mut().unwrap().remove(&format!("{name}.key"));
        let error = FrontProxy::read(&secret).err().unwrap().to_string();
        assert!(error.contains("front-proxy-authority has no") && error.contains(&format!("{name}.key")), "{error}");
    }
}
