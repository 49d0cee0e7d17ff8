//! Changing the key that service account tokens are signed with, while tokens signed with the one before stay good.
//!
//! A key goes through three standings. It is *published*: servers check tokens with it and tell others of it, but sign
//! none. It *signs*. It is *retired*: tokens that it signed are good until they end. Then it is dropped, and with it
//! whatever it had signed. A change that nobody outside has to learn of skips the first standing: a server that meets a
//! key it has not heard of asks the others before it refuses a token.

use std::collections::BTreeMap;

use copepod_api::{Timestamp, time};
use serde_json::{Value, json};

use crate::{AccountKeys, IdentityError, accounts::generate};

/// The annotation that says since when keys do not sign any more: a JSON object of names and times.
const RETIRED: &str = "copepod.io/retired-keys";

/// What is true of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Published,
    Signs,
    /// Since when.
    Retired(String),
}

/// The Secret of the keys, as somebody changes it.
pub struct Rotation {
    secret: Value,
}

impl Rotation {
    pub fn of(secret: Value) -> Rotation {
        Rotation { secret }
    }

    /// The Secret as it stands now, to be written back.
    pub fn into_secret(self) -> Value {
        self.secret
    }

    /// The keys by name.
    pub fn keys(&self) -> BTreeMap<String, Standing> {
        let active = self.active();
        let retired = self.retired();
        let names = self.secret["data"].as_object().into_iter().flatten().map(|(name, _)| name);
        let standing = |name: &String| match retired.get(name) {
            _ if *name == active => Standing::Signs,
            Some(since) => Standing::Retired(since.clone()),
            None => Standing::Published,
        };
        names.map(|name| (name.clone(), standing(name))).collect()
    }

    /// Adds a key that does not sign yet; gives its name.
    pub fn publish(&mut self) -> Result<String, IdentityError> {
        let (name, pem) = generate()?;
        self.secret["data"][&name] = json!(pem);
        Ok(name)
    }

    /// From now on another key signs: one that was published before, or a new one. Gives its name.
    pub fn rotate(&mut self, now: Timestamp) -> Result<String, IdentityError> {
        let published = self.keys().into_iter().find(|(_, standing)| *standing == Standing::Published);
        let name = published.map_or_else(|| self.publish(), |(name, _)| Ok(name))?;
        let mut retired = self.retired();
        retired.insert(self.active(), time::rfc3339(now));
        self.note(AccountKeys::ACTIVE, name.clone());
        self.note(RETIRED, json!(retired).to_string());
        Ok(name)
    }

    /// Takes a key out; tokens that it signed are worth nothing from then on.
    pub fn remove(&mut self, name: &str) -> Result<(), String> {
        match self.keys().get(name) {
            None => return Err(format!("there is no key {name:?}")),
            Some(Standing::Signs) => return Err(format!("the key {name:?} signs tokens; let another do it first")),
            Some(_) => {}
        }
        if let Some(keys) = self.secret["data"].as_object_mut() {
            keys.remove(name);
        }
        let mut retired = self.retired();
        retired.remove(name);
        self.note(RETIRED, json!(retired).to_string());
        Ok(())
    }

    fn active(&self) -> String {
        self.annotation(AccountKeys::ACTIVE).to_owned()
    }

    fn retired(&self) -> BTreeMap<String, String> {
        serde_json::from_str(self.annotation(RETIRED)).unwrap_or_default()
    }

    fn annotation(&self, name: &str) -> &str {
        self.secret["metadata"]["annotations"][name].as_str().unwrap_or_default()
    }

    fn note(&mut self, name: &str, text: String) {
        self.secret["metadata"]["annotations"][name] = json!(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn tokens_outlive_a_rotation_and_end_with_their_key() {
        let mut rotation = Rotation::of(AccountKeys::create().unwrap());
        let (first, _) = rotation.keys().pop_first().unwrap();
        let token = AccountKeys::read(&rotation.secret).unwrap().sign(&json!({"sub": "a"})).unwrap();
        let second = rotation.rotate(now()).unwrap();
        let standings = rotation.keys();
        assert_eq!(standings[&second], Standing::Signs);
        assert_eq!(standings[&first], Standing::Retired("2026-11-23T10:00:00Z".to_owned()));
        let keys = AccountKeys::read(&rotation.secret).unwrap();
        assert!(keys.verify(&token).is_some());
        assert_ne!(keys.sign(&json!({"sub": "a"})).unwrap().split('.').next(), token.split('.').next());

        assert!(rotation.remove(&second).unwrap_err().contains("signs tokens"));
        assert!(rotation.remove("other").unwrap_err().contains("no key \"other\""));
        rotation.remove(&first).unwrap();
        let keys = AccountKeys::read(&rotation.into_secret()).unwrap();
        assert!(keys.verify(&token).is_none() && !keys.has_signed(&token));
    }

    #[test]
    fn a_published_key_is_the_next_to_sign() {
        let mut rotation = Rotation::of(AccountKeys::create().unwrap());
        let published = rotation.publish().unwrap();
        assert_eq!(rotation.keys()[&published], Standing::Published);
        assert_eq!(AccountKeys::read(&rotation.secret).unwrap().public()["keys"].as_array().unwrap().len(), 2);
        assert_eq!(rotation.rotate(now()).unwrap(), published);
        assert_eq!(rotation.keys().len(), 2);
    }
}
