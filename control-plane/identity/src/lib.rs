//! Who is who: the cluster's authority, the certificates it issues, and the tokens that machines join with.
//!
//! Identity is a key, not an address: every server's certificate carries the same name, [`SERVER_NAME`], whatever machine
//! it runs on, and a client proves itself by its certificate's subject (CN is the user, O the group), as Kubernetes does
//! it. A machine may change its address and stays who it is.

mod accounts;
mod authority;
mod front_proxy;
mod kubeconfig;
mod rotation;
mod tls;
mod tokens;
mod trust;
mod unverified;
mod wanted;

pub use accounts::{AccountKeys, LEGACY_ISSUER, legacy_claims, random_uuid};
pub use authority::{Authority, IdentityError, Issued};
pub use front_proxy::FrontProxy;
pub use kubeconfig::kubeconfig;
pub use rotation::{Rotation, Standing};
pub use tls::{client_config, pinned_client_config, server_config, user_of_certificate};
pub use tokens::{Minted, Role, Token, TokenError, Tokens};
pub use trust::Trust;
pub use unverified::AnyCertificate;
pub use wanted::{Usages, Wanted};

/// The name in every server's certificate; clients check for it whatever address they dial.
pub const SERVER_NAME: &str = "copepod";

/// What the certificate names by which servers speak for users to other programs.
pub const FRONT_PROXY: &str = "front-proxy-client";

pub const SERVERS_GROUP: &str = "system:servers";
pub const NODES_GROUP: &str = "system:nodes";
pub const MASTERS_GROUP: &str = "system:masters";

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use copepod_api::Timestamp;
    use rustls::{ClientConfig, ClientConnection, ServerConnection};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::now()
    }

    /// Shakes hands in memory; gives the client's user as the server sees it.
    fn handshake(client: ClientConfig, authority: &Authority, issued: &Issued) -> Result<Option<String>, String> {
        handshake_with(SERVER_NAME, client, authority, issued)
    }

    fn handshake_with(
        name: &'static str,
        client: ClientConfig,
        authority: &Authority,
        issued: &Issued,
    ) -> Result<Option<String>, String> {
        handshake_trusting(authority.certificate_pem(), name, client, issued)
    }

    fn handshake_trusting(
        trusted: &str,
        name: &'static str,
        client: ClientConfig,
        issued: &Issued,
    ) -> Result<Option<String>, String> {
        let server = server_config(trusted, issued).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name.try_into().unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().map_err(|error| error.to_string())?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().map_err(|error| error.to_string())?;
        }
        let user = server.peer_certificates().and_then(|chain| user_of_certificate(&chain[0]));
        Ok(user.map(|user| format!("{} in {}", user.name, user.groups[0])))
    }

    #[test]
    fn a_client_is_who_its_certificate_says() {
        let authority = Authority::create(now()).unwrap();
        let server = authority.issue_server("s1", "192.0.2.7", now()).unwrap();
        let admin = authority.issue_client("admin", MASTERS_GROUP, now(), HOUR).unwrap();
        let client =
            client_config(authority.certificate_pem(), Some((&admin.certificate_pem, &admin.key_pem))).unwrap();
        assert_eq!(handshake(client, &authority, &server), Ok(Some("admin in system:masters".to_owned())));
    }

    #[test]
    fn a_server_is_known_by_its_address_as_well() {
        let authority = Authority::create(now()).unwrap();
        for host in ["192.0.2.7", "2001:db8::1", "s1.example.org"] {
            let server = authority.issue_server("s1", host, now()).unwrap();
            let client = || client_config(authority.certificate_pem(), None).unwrap();
            assert_eq!(handshake_with(host, client(), &authority, &server), Ok(None), "{host}");
            let refusal = handshake_with("192.0.2.8", client(), &authority, &server).unwrap_err();
            assert!(refusal.contains("not valid for name"), "{refusal}");
        }
    }

    #[test]
    fn a_client_is_not_taken_for_the_front_proxy_nor_the_proxy_for_a_client() {
        let authority = Authority::create(now()).unwrap();
        let server = authority.issue_server("s1", "192.0.2.7", now()).unwrap();
        let proxy = FrontProxy::read(&FrontProxy::create(now()).unwrap()).unwrap();
        let namesake = authority.issue_client(FRONT_PROXY, MASTERS_GROUP, now(), HOUR).unwrap();
        let as_proxy = proxy.issue(now()).unwrap();
        let shaken = |trusted: &str, shown: &Issued| {
            let own = Some((shown.certificate_pem.as_str(), shown.key_pem.as_str()));
            let client = client_config(authority.certificate_pem(), own).unwrap();
            handshake_trusting(trusted, SERVER_NAME, client, &server).is_ok()
        };
        assert!(shaken(proxy.bundle(), &as_proxy) && shaken(authority.certificate_pem(), &namesake));
        assert!(!shaken(proxy.bundle(), &namesake), "a program knows the proxy by its authority");
        assert!(!shaken(authority.certificate_pem(), &as_proxy), "our own servers know no proxy");
    }

    #[test]
    fn nobody_is_taken_for_a_server_of_another_cluster() {
        let (ours, theirs) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
        let server = theirs.issue_server("s1", "192.0.2.7", now()).unwrap();
        let client = client_config(ours.certificate_pem(), None).unwrap();
        assert!(handshake(client, &theirs, &server).is_err());
        let pinned = pinned_client_config(&ours.fingerprint()).unwrap();
        let refusal = handshake(pinned, &theirs, &server).unwrap_err();
        assert!(refusal.contains("not of the cluster"), "{refusal}");
    }

    #[test]
    fn a_joining_machine_needs_only_the_fingerprint() {
        let authority = Authority::create(now()).unwrap();
        let server = authority.issue_server("s1", "192.0.2.7", now()).unwrap();
        let pinned = pinned_client_config(&authority.fingerprint()).unwrap();
        assert_eq!(handshake(pinned, &authority, &server), Ok(None));
    }

    #[test]
    fn a_request_is_signed_for_the_user_that_the_server_decides() {
        let authority = Authority::create(now()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut asked = rcgen::CertificateParams::default();
        asked.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        let request = asked.serialize_request(&key).unwrap().pem().unwrap();
        let signed = authority.sign_request(&request, "system:node:n1", NODES_GROUP, now(), HOUR).unwrap();
        let server = authority.issue_server("s1", "192.0.2.7", now()).unwrap();
        let client = client_config(authority.certificate_pem(), Some((&signed, &key.serialize_pem()))).unwrap();
        assert_eq!(handshake(client, &authority, &server), Ok(Some("system:node:n1 in system:nodes".to_owned())));
    }

    #[test]
    fn a_token_is_good_for_its_role_and_time_only() {
        let authority = Authority::create(now()).unwrap();
        let minted = Tokens::mint(Role::Node, authority.certificate_pem(), HOUR, now()).unwrap();
        let token = Tokens::parse(&minted.text).unwrap();
        assert_eq!(token.fingerprint, authority.fingerprint());
        let data: serde_json::Map<String, serde_json::Value> = minted
            .data
            .iter()
            .map(|(name, text)| (name.clone(), base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text).into()))
            .collect();
        let kept = serde_json::json!({ "data": data });
        assert!(Tokens::verify(&kept, &token, now()));
        assert!(!Tokens::verify(&kept, &token, now() + HOUR * 2));
        let other = Tokens::parse(&minted.text.replace(".node.", ".server.")).unwrap();
        assert!(!Tokens::verify(&kept, &other, now()));
        assert!(Tokens::parse("copepod.node.short").is_err());
    }
}
