//! `copepod token`: what machines join with.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use copepod_identity::Tokens;
use serde_json::json;

use crate::{
    client::{Client, refused},
    failure::{Doing, Outcome},
};

#[derive(Subcommand)]
pub enum Token {
    /// Makes a token that a machine can join with, and prints it
    Create(Create),
}

#[derive(Args)]
pub struct Create {
    /// What the machine becomes
    #[arg(long, value_enum, default_value_t = Role::Node)]
    role: Role,
    /// How long the token is good for, in hours
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8760))]
    hours: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Node,
    Server,
}

pub async fn run(client: &Client, token: Token) -> Outcome {
    let Token::Create(Create { role, hours }) = token;
    let text = create(client, role, Duration::from_secs(hours * 3600)).await?;
    let verb = match role {
        Role::Node => "agent --server",
        Role::Server => "server --join",
    };
    eprintln!("on the new machine:  copepod {verb} {} --token <the token below>", client.address());
    println!("{text}");
    Ok(())
}

/// The cluster keeps a hash of the secret part only, so this is the one time the token can be seen.
pub async fn create(client: &Client, role: Role, good_for: Duration) -> Outcome<String> {
    let role = match role {
        Role::Node => copepod_identity::Role::Node,
        Role::Server => copepod_identity::Role::Server,
    };
    let minted =
        Tokens::mint(role, client.authority_pem(), good_for, copepod_api::Timestamp::now()).doing("the token")?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": Tokens::SECRET_TYPE,
        "metadata": {"name": minted.secret_name, "namespace": Tokens::NAMESPACE},
        "stringData": minted.data,
    });
    let path = format!("/api/v1/namespaces/{}/secrets", Tokens::NAMESPACE);
    client.post(&path, &secret).await?.map_err(|status| refused(&status))?;
    Ok(minted.text)
}
