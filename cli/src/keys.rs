//! `copepod keys`: what service account tokens are signed with.

use clap::{Args, Subcommand};
use copepod_api::Timestamp;
use copepod_identity::{AccountKeys, Rotation, Standing};
use http::Method;

use crate::{
    client::{Client, refused},
    failure::{Doing, Failure, Outcome},
};

#[derive(Subcommand)]
pub enum Keys {
    /// Lists the keys, and which of them signs
    List,
    /// Lets another key sign; tokens signed before stay good
    Rotate(Rotate),
    /// Takes a key out; the tokens that it signed are worth nothing from then on
    Drop(Drop),
}

#[derive(Args)]
pub struct Rotate {
    /// Only publish a new key now, for those who check tokens outside of the cluster; the next rotation lets it sign
    #[arg(long)]
    publish: bool,
}

#[derive(Args)]
pub struct Drop {
    /// As `copepod keys list` names it
    #[arg(allow_hyphen_values = true)]
    key: String,
}

pub async fn run(client: &Client, keys: Keys) -> Outcome {
    let path = format!("/api/v1/namespaces/{}/secrets/{}", AccountKeys::NAMESPACE, AccountKeys::SECRET);
    let mut rotation = Rotation::of(client.get(&path).await?.map_err(|status| refused(&status))?);
    let said = match keys {
        Keys::List => {
            list(&rotation);
            return Ok(());
        }
        Keys::Rotate(Rotate { publish: true }) => {
            let name = rotation.publish().doing("the key")?;
            format!("{name} is published; `copepod keys rotate` lets it sign")
        }
        Keys::Rotate(Rotate { publish: false }) => {
            let name = rotation.rotate(Timestamp::now()).doing("the key")?;
            format!("{name} signs tokens from now on")
        }
        Keys::Drop(Drop { key }) => {
            rotation.remove(&key).map_err(Failure::new)?;
            format!("{key} is gone, and with it the tokens that it signed")
        }
    };
    // It names the revision that was read, so two who do this at once cannot undo each other's work.
    let body = rotation.into_secret().to_string().into();
    client.send(Method::PUT, &path, "application/json", body).await?.map_err(|status| refused(&status))?;
    println!("{said}");
    Ok(())
}

fn list(rotation: &Rotation) {
    println!("{:<45}STANDING", "KEY");
    for (name, standing) in rotation.keys() {
        let words = match standing {
            Standing::Published => "published, signs nothing yet".to_owned(),
            Standing::Signs => "signs".to_owned(),
            Standing::Retired(since) => format!("retired {since}"),
        };
        println!("{name:<45}{words}");
    }
}
