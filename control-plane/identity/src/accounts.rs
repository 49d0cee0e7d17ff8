//! Tokens of service accounts: JSON web tokens (RFC 7519) signed with ECDSA on P-256 (`ES256`).
//!
//! The keys are a Secret of kube-system, so every server has them and can issue and check. It may hold several: an
//! annotation says which one signs, and tokens signed by any of them are good (`rotation.rs`).

use std::collections::BTreeMap;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rcgen::KeyPair;
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::IdentityError;

/// What stands before the point in the DER of a P-256 public key (RFC 5480).
const PUBLIC_KEY_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A coordinate of a point.
const COORDINATE_BYTES: usize = 32;

/// Longer tokens are not looked at: one with a few audiences has a kilobyte and a half.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// The keys that tokens of service accounts are signed with.
pub struct AccountKeys {
    keys: BTreeMap<String, EcdsaKeyPair>,
    active: String,
}

impl AccountKeys {
    pub const NAMESPACE: &str = "kube-system";
    pub const SECRET: &str = "service-account-keys";
    pub const SECRET_TYPE: &str = "copepod.io/service-account-keys";
    /// The annotation that names the key that signs.
    pub const ACTIVE: &str = "copepod.io/signing-key";

    /// A Secret with one new key.
    pub fn create() -> Result<Value, IdentityError> {
        let (name, pem) = generate()?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "type": AccountKeys::SECRET_TYPE,
            "metadata": {
                "name": AccountKeys::SECRET, "namespace": AccountKeys::NAMESPACE,
                "annotations": {AccountKeys::ACTIVE: name},
            },
            "data": {name: pem},
        }))
    }

    /// The keys in a Secret. Entries that are no keys are passed over, so that one mistake does not end all tokens.
    pub fn read(secret: &Value) -> Result<AccountKeys, IdentityError> {
        let mut keys = BTreeMap::new();
        for value in secret["data"].as_object().into_iter().flatten().map(|(_, value)| value) {
            let pem = BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            if let Ok(pair) = key_pair(&pem) {
                keys.insert(id(pair.public_key().as_ref()), pair);
            }
        }
        let named = secret["metadata"]["annotations"][AccountKeys::ACTIVE].as_str().unwrap_or_default();
        match keys.contains_key(named) {
            true => Ok(AccountKeys { keys, active: named.to_owned() }),
            false => Err(IdentityError::Pem(format!(
                "the Secret {}/{} has no key {named:?}, which its annotation {} names",
                AccountKeys::NAMESPACE,
                AccountKeys::SECRET,
                AccountKeys::ACTIVE
            ))),
        }
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Value) -> Result<String, IdentityError> {
        let unsigned = || IdentityError::Pem("a token could not be signed".to_owned());
        let pair = self.keys.get(&self.active).ok_or_else(unsigned)?;
        let head = json!({"alg": "ES256", "kid": self.active});
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let content = format!("{}.{}", part(&head), part(claims));
        let signature = pair.sign(&SystemRandom::new(), content.as_bytes()).map_err(|_| unsigned())?;
        Ok(format!("{content}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whether the key that a token names is one of these.
    pub fn has_signed(&self, token: &str) -> bool {
        let head = || -> Option<Value> {
            let head = token.split_once('.').filter(|_| token.len() <= TOKEN_BYTES_MAX)?.0;
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(head).ok()?).ok()
        };
        head().is_some_and(|head| head["kid"].as_str().is_some_and(|id| self.keys.contains_key(id)))
    }

    /// What a token says, if one of these keys signed it. Whether it is still good is for the caller to decide.
    pub fn verify(&self, token: &str) -> Option<Value> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (content, signature) = token.rsplit_once('.')?;
        let (head, claims) = content.split_once('.')?;
        let bytes = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let head: Value = serde_json::from_slice(&bytes(head)?).ok()?;
        let pair = self.keys.get(head["kid"].as_str()?).filter(|_| head["alg"] == "ES256")?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
        public.verify(content.as_bytes(), &bytes(signature)?).ok()?;
        serde_json::from_slice(&bytes(claims)?).ok()
    }

    /// The public halves, as a JSON web key set (RFC 7517), for whoever checks tokens without asking us.
    pub fn public(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|(name, pair)| {
                // An uncompressed point: a mark, then both coordinates.
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(COORDINATE_BYTES);
                json!({
                    "use": "sig", "kty": "EC", "kid": name, "crv": "P-256", "alg": "ES256",
                    "x": BASE64_URL_SAFE_NO_PAD.encode(x), "y": BASE64_URL_SAFE_NO_PAD.encode(y),
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}

/// A new key: its name, and what the Secret keeps of it.
pub(crate) fn generate() -> Result<(String, String), IdentityError> {
    let pem = KeyPair::generate()?.serialize_pem();
    let name = id(key_pair(pem.as_bytes())?.public_key().as_ref());
    Ok((name, BASE64_STANDARD.encode(pem)))
}

/// Who issued tokens that are kept in Secrets and never run out.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// What a token in a Secret says: it is good as long as the Secret holds it.
pub fn legacy_claims(namespace: &str, account: &str, uid: &str, secret: &str) -> Value {
    json!({
        "iss": LEGACY_ISSUER, "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": uid,
    })
}

/// A random UUID (RFC 9562, version 4): tokens are told apart by it.
pub fn random_uuid() -> String {
    let [high, low]: [u64; 2] = [rand::random(), rand::random()];
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}

fn key_pair(pem: &[u8]) -> Result<EcdsaKeyPair, IdentityError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem)
        .map_err(|error| IdentityError::Pem(format!("not a PEM key: {error}")))?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &SystemRandom::new())
        .map_err(|error| IdentityError::Pem(format!("not an ECDSA key on P-256: {error}")))
}

/// Keys are named by the hash of their public half.
fn id(point: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest([&PUBLIC_KEY_HEAD[..], point].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_signed_and_nothing_else() {
        let keys = AccountKeys::read(&AccountKeys::create().unwrap()).unwrap();
        let claims = json!({"sub": "system:serviceaccount:a:b"});
        let token = keys.sign(&claims).unwrap();
        assert_eq!(keys.verify(&token), Some(claims));

        let (content, signature) = token.rsplit_once('.').unwrap();
        let (head, _) = content.split_once('.').unwrap();
        let other = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:a:root"}"#);
        assert_eq!(keys.verify(&format!("{head}.{other}.{signature}")), None);
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(keys.verify(&format!("{unsigned}.{other}.")), None);
        let others = AccountKeys::read(&AccountKeys::create().unwrap()).unwrap();
        assert_eq!(others.verify(&token), None);
    }

    #[test]
    fn tokens_outlive_a_change_of_the_key() {
        let (old, new) = (AccountKeys::create().unwrap(), AccountKeys::create().unwrap());
        let token = AccountKeys::read(&old).unwrap().sign(&json!({"sub": "a"})).unwrap();
        let mut both = new.clone();
        for (name, key) in old["data"].as_object().unwrap() {
            both["data"][name] = key.clone();
        }
        let both = AccountKeys::read(&both).unwrap();
        assert!(both.verify(&token).is_some());
        let fresh = both.sign(&json!({"sub": "a"})).unwrap();
        assert!(AccountKeys::read(&new).unwrap().verify(&fresh).is_some());
        assert_eq!(both.public()["keys"].as_array().unwrap().len(), 2);
        assert!(AccountKeys::read(&new).unwrap().verify(&token).is_none());
    }

    #[test]
    fn a_missing_key_is_named() {
        let mut secret = AccountKeys::create().unwrap();
        secret["metadata"]["annotations"][AccountKeys::ACTIVE] = json!("gone");
        let error = AccountKeys::read(&secret).err().unwrap().to_string();
        assert!(error.contains("no key \"gone\""), "{error}");
    }
}
