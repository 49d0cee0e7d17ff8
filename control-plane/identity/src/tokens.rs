//! Tokens: `copepod.<role>.<id>.<secret>.<fingerprint>`.
//!
//! A token carries all that a machine needs to join: a secret that proves its right to, and the fingerprint of the
//! cluster's authority, so that it talks to the right cluster from the first byte. The cluster keeps a hash of the
//! secret, in a Secret of kube-system named after the id: reading the store does not give anybody a token.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use copepod_api::{Timestamp, time::rfc3339};
use rand::Rng;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{IdentityError, authority};

/// Enough that nobody guesses it: 160 bits.
const SECRET_BYTES: usize = 20;
const ID_BYTES: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Node,
    Server,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Server => "server",
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub role: Role,
    pub id: String,
    secret: String,
    /// Hex SHA-256 of the authority's certificate.
    pub fingerprint: String,
}

impl Token {
    /// The Secret in [`Tokens::NAMESPACE`] that keeps the hash.
    pub fn secret_name(&self) -> String {
        format!("join-token-{}", self.id)
    }
}

/// A token just made: the text is shown once, the data is kept.
pub struct Minted {
    pub text: String,
    pub secret_name: String,
    /// `stringData` of the Secret.
    pub data: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is not of the form copepod.<role>.<id>.<secret>.<fingerprint>; copy it whole")]
    Form,
}

pub struct Tokens;

impl Tokens {
    pub const NAMESPACE: &str = "kube-system";
    pub const SECRET_TYPE: &str = "copepod.io/join-token";

    pub fn mint(role: Role, authority_pem: &str, good_for: Duration, now: Timestamp) -> Result<Minted, IdentityError> {
        let random = |n_bytes: usize| {
            let mut bytes = vec![0; n_bytes];
            rand::rng().fill_bytes(&mut bytes);
            authority::hex(&bytes)
        };
        let token = Token {
            role,
            id: random(ID_BYTES),
            secret: random(SECRET_BYTES),
            fingerprint: authority::fingerprint(&authority::der(authority_pem)?),
        };
        let expires = now.checked_add(good_for).unwrap_or(Timestamp::MAX);
        let data = BTreeMap::from([
            ("role".to_owned(), role.word().to_owned()),
            ("hash".to_owned(), hash(&token)),
            ("expires".to_owned(), rfc3339(expires)),
        ]);
        let text = format!("copepod.{}.{}.{}.{}", role.word(), token.id, token.secret, token.fingerprint);
        Ok(Minted { text, secret_name: token.secret_name(), data })
    }

    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let ["copepod", role, id, secret, fingerprint] = parts.as_slice() else { return Err(TokenError::Form) };
        let role = match *role {
            "node" => Role::Node,
            "server" => Role::Server,
            _ => return Err(TokenError::Form),
        };
        let is_hex =
            |part: &str, n_bytes: usize| part.len() == 2 * n_bytes && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex(id, ID_BYTES) || !is_hex(secret, SECRET_BYTES) || !is_hex(fingerprint, 32) {
            return Err(TokenError::Form);
        }
        Ok(Token { role, id: (*id).to_owned(), secret: (*secret).to_owned(), fingerprint: (*fingerprint).to_owned() })
    }

    /// Whether a Secret keeps this token, and it is still good.
    pub fn verify(secret: &Value, token: &Token, now: Timestamp) -> bool {
        let field = |name: &str| {
            let text = secret["data"][name].as_str()?;
            String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()
        };
        let is_good = field("expires").and_then(|at| at.parse::<Timestamp>().ok()).is_some_and(|at| now < at);
        let is_of_role = field("role").as_deref() == Some(token.role.word());
        // Hashes are compared, so the time it takes tells nothing about the secret.
        is_good && is_of_role && field("hash").as_deref() == Some(hash(token).as_str())
    }
}

fn hash(token: &Token) -> String {
    authority::hex(&Sha256::digest(format!("{}.{}.{}", token.role.word(), token.id, token.secret)))
}
