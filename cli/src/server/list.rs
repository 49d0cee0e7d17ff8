//! `copepod server list`: each server asked for itself, so that it works when no majority answers.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;

use super::members::itself;
use crate::{client::Client, failure::Outcome};

/// How long a server may take to answer before it counts as away.
const ANSWER_MAX: Duration = Duration::from_secs(2);

pub async fn run(client: &Client) -> Outcome {
    let told = itself(client).await?;
    let members = told["members"].as_array().cloned().unwrap_or_default();
    let asked = members.iter().map(|member| async {
        let other = client.at(member["address"].as_str().unwrap_or_default()).ok()?;
        tokio::time::timeout(ANSWER_MAX, itself(&other)).await.ok()?.ok().filter(|it| it["name"] == member["name"])
    });
    print!("{}", table(&members, &join_all(asked).await));
    Ok(())
}

/// `answers` belong to `members`, one each.
fn table(members: &[Value], answers: &[Option<Value>]) -> String {
    let revision = |answer: &Value| answer["revision"].as_u64().unwrap_or_default();
    let leads = |answer: &Value| answer["leading"] == true;
    let newest = answers.iter().flatten().find(|answer| leads(answer)).map(revision);
    let mut text = format!("{:<16}{:<8}{:<10}{:<12}{:<10}ADDRESS\n", "NAME", "ID", "ROLE", "BEHIND", "VERSION");
    for (member, answer) in members.iter().zip(answers) {
        let role = match answer {
            _ if member["learner"] == true => "learner",
            Some(answer) if leads(answer) => "leader",
            _ => "voter",
        };
        let behind = match (answer, newest) {
            (None, _) => "no answer".to_owned(),
            (Some(answer), Some(newest)) => newest.saturating_sub(revision(answer)).to_string(),
            (Some(_), None) => "?".to_owned(),
        };
        let version = answer.as_ref().and_then(|answer| answer["version"].as_str()).unwrap_or("-");
        let word = |field: &str| member[field].as_str().unwrap_or_default().to_owned();
        let (name, id, address) = (word("name"), member["id"].to_string(), word("address"));
        text.push_str(&format!("{name:<16}{id:<8}{role:<10}{behind:<12}{version:<10}{address}\n"));
    }
    let votes = |member: &Value| member["learner"] != true;
    let n_voters = members.iter().filter(|member| votes(member)).count();
    let n_up = members.iter().zip(answers).filter(|(member, answer)| votes(member) && answer.is_some()).count();
    let majority = n_voters / 2 + 1;
    text.push_str(&match n_up.checked_sub(majority) {
        Some(0) => format!("{n_up} of {n_voters} voting servers answer; none may fail, or writes stop\n"),
        Some(n) => format!("{n_up} of {n_voters} voting servers answer; {n} may fail before writes stop\n"),
        None => format!("{n_up} of {n_voters} voting servers answer; writes have stopped until {majority} do\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn last_line(learners: &[bool], up: &[bool]) -> String {
        let member = |(id, learner): (usize, &bool)| json!({"name": format!("s{id}"), "id": id, "learner": learner});
        let members: Vec<Value> = learners.iter().enumerate().map(member).collect();
        let answers: Vec<Option<Value>> =
            up.iter().enumerate().map(|(id, up)| up.then(|| json!({"revision": id, "leading": id == 0}))).collect();
        table(&members, &answers).lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_last_line_says_how_many_may_fail() {
        let cases: [(&[bool], &[bool], &str); 5] = [
            (&[false], &[true], "none may fail"),
            (&[false, false, false], &[true, true, true], "1 may fail"),
            (&[false, false, false], &[true, true, false], "none may fail"),
            (&[false, false, false], &[true, false, false], "writes have stopped until 2"),
            (&[false, false, true], &[true, true, true], "2 of 2 voting servers answer; none may fail"),
        ];
        for (learners, up, expected) in cases {
            let line = last_line(learners, up);
            assert!(line.contains(expected), "{learners:?} {up:?}: {line}");
        }
    }
}
