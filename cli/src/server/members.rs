//! `copepod server remove` and `copepod server transfer`.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

/// How long a change waits for somebody to lead.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);

pub async fn remove(client: &Client, name: &str) -> Outcome {
    change(client, name, "remove").await?;
    println!("server/{name} removed; it stops, and its directory can go");
    Ok(())
}

pub async fn transfer(client: &Client, name: &str) -> Outcome {
    change(client, name, "transfer").await?;
    println!("server/{name} leads");
    Ok(())
}

/// Asks, and follows to the leader. One that hands over meanwhile says so, and its successor is asked.
async fn change(client: &Client, name: &str, verb: &str) -> Outcome {
    let path = format!("/copepod/v1/servers/{name}/{verb}");
    let deadline = Instant::now() + PATIENCE;
    let mut asked = client.clone();
    loop {
        let answer = asked.send(Method::POST, &path, "application/json", Default::default()).await;
        let elsewhere = match answer {
            Ok(Ok(answer)) if answer.get("elsewhere").is_none() => return Ok(()),
            Ok(Ok(answer)) => answer["elsewhere"].as_str().map(str::to_owned),
            Ok(Err(status)) => return Err(refused(&status)),
            Err(failure) if Instant::now() > deadline => return Err(failure),
            Err(_) => None,
        };
        if Instant::now() > deadline {
            return Err(Failure::new("no server leads, so nothing can be changed")
                .hint("`copepod server list` shows who answers"));
        }
        match elsewhere {
            Some(address) => asked = client.at(&address)?,
            None => asked = client.clone(),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a server says of itself.
pub async fn itself(client: &Client) -> Outcome<Value> {
    client.get("/copepod/v1/server").await?.map_err(|status| refused(&status))
}
