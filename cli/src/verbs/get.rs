//! `copepod get`.

use clap::Args;
use copepod_api::{Kind, decode};
use serde_json::{Value, json};

use super::resource::{self, encode};
use crate::{
    client::{Client, refused},
    failure::{Failure, Outcome},
};

#[derive(Args)]
pub struct Get {
    /// pods, pod/web-1, deploy,svc, nodes n1 n2 …
    #[arg(required = true)]
    what: Vec<String>,
    /// json, yaml, wide or name
    #[arg(long, short)]
    output: Option<String>,
    /// Labels to select by: app=web,tier!=cache
    #[arg(long = "selector", short = 'l')]
    labels: Option<String>,
    /// Fields to select by: spec.nodeName=n1
    #[arg(long)]
    field_selector: Option<String>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Goes on showing what changes
    #[arg(long, short)]
    watch: bool,
    /// Leaves the first line of tables out
    #[arg(long)]
    no_headers: bool,
}

pub async fn run(get: Get, client: &Client, namespace: Option<&str>) -> Outcome {
    let targets = resource::parse(&get.what)?;
    let output = get.output.as_deref().unwrap_or("");
    if !["", "json", "yaml", "wide", "name"].contains(&output) {
        return Err(Failure::new(format!("unknown output format {output:?}")).hint("use json, yaml, wide or name"));
    }
    for (kind, _) in &targets {
        resource::check_scope(kind, namespace)?;
    }
    let scope = if get.all_namespaces { None } else { Some(namespace.unwrap_or(client.namespace())) };
    if matches!(output, "json" | "yaml") {
        return print_objects(client, &targets, scope, &get, output).await;
    }
    let mut nothing = true;
    for (place, (kind, name)) in targets.iter().enumerate() {
        let path = path_of(kind, name.as_deref(), scope, &get);
        let table = client.table(&path).await?.map_err(|status| refused(&status))?;
        let rows = table["rows"].as_array().map_or(0, Vec::len);
        nothing &= rows == 0;
        if rows > 0 && place > 0 && !get.no_headers {
            println!();
        }
        let mut widths = Vec::new();
        print_table(
            &table,
            kind,
            output,
            get.all_namespaces,
            !get.no_headers && rows > 0,
            targets.len() > 1,
            &mut widths,
        );
        if get.watch {
            let revision = table["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            return watch(client, kind, name.as_deref(), scope, &get, output, &revision, widths).await;
        }
    }
    if nothing {
        match scope {
            Some(namespace) => eprintln!("nothing found in namespace {namespace}"),
            None => eprintln!("nothing found"),
        }
    }
    Ok(())
}

fn path_of(kind: &Kind, name: Option<&str>, scope: Option<&str>, get: &Get) -> String {
    if let Some(name) = name {
        let namespace = scope.unwrap_or_default();
        return format!("{}?includeObject=Metadata", resource::path(kind, namespace, name));
    }
    let mut path = format!("{}?includeObject=Metadata", resource::collection(kind, scope));
    if let Some(labels) = &get.labels {
        path.push_str(&format!("&labelSelector={}", encode(labels)));
    }
    if let Some(fields) = &get.field_selector {
        path.push_str(&format!("&fieldSelector={}", encode(fields)));
    }
    path
}

async fn print_objects(
    client: &Client,
    targets: &[(&'static Kind, Option<String>)],
    scope: Option<&str>,
    get: &Get,
    output: &str,
) -> Outcome {
    let mut items = Vec::new();
    for (kind, name) in targets {
        let path = path_of(kind, name.as_deref(), scope, get).replace("includeObject=Metadata", "");
        match name {
            Some(_) => items.push(client.get(&path).await?.map_err(|status| refused(&status))?),
            None => items.extend(resource::items(client, &path).await?.into_iter().map(|mut item| {
                item["apiVersion"] = json!(kind.api_version());
                item["kind"] = json!(kind.name);
                item
            })),
        }
    }
    let single = matches!(targets, [(_, Some(_))]);
    let value = match items.pop() {
        Some(item) if single => item,
        last => {
            items.extend(last);
            json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
        }
    };
    match output {
        "yaml" => print!("{}", decode::to_yaml(&value)),
        _ => println!("{}", serde_json::to_string_pretty(&value).unwrap_or_default()),
    }
    Ok(())
}

/// Prints the rows of a Table; columns of priority above 0 only when they are asked for.
fn print_table(
    table: &Value,
    kind: &Kind,
    output: &str,
    with_namespace: bool,
    with_header: bool,
    with_kind: bool,
    widths: &mut Vec<usize>,
) {
    let empty = Vec::new();
    let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> = (0..columns.len())
        .filter(|place| output == "wide" || columns[*place]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    if with_header {
        let mut header: Vec<String> =
            shown.iter().map(|place| columns[*place]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
        if with_namespace && kind.is_namespaced() {
            header.insert(0, "NAMESPACE".to_owned());
        }
        lines.push(header);
    }
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let name = row["object"]["metadata"]["name"].as_str().unwrap_or_default();
        if output == "name" {
            println!("{}", resource::label(kind, name));
            continue;
        }
        let mut cells: Vec<String> = shown.iter().map(|place| cell(&row["cells"][*place])).collect();
        if with_kind && let Some(first) = cells.first_mut() {
            *first = resource::label(kind, first);
        }
        if with_namespace && kind.is_namespaced() {
            cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
        }
        lines.push(cells);
    }
    if output == "name" {
        return;
    }
    for line in &lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(line) {
            text.push_str(&format!("{cell:<width$}   "));
        }
        println!("{}", text.trim_end());
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

#[allow(clippy::too_many_arguments)]
async fn watch(
    client: &Client,
    kind: &'static Kind,
    name: Option<&str>,
    scope: Option<&str>,
    get: &Get,
    output: &str,
    revision: &str,
    mut widths: Vec<usize>,
) -> Outcome {
    let mut path = path_of(kind, None, scope, get);
    if let Some(name) = name {
        path.push_str(&format!("&fieldSelector={}", encode(&format!("metadata.name={name}"))));
    }
    path.push_str(&format!("&watch=true&resourceVersion={revision}"));
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut stream = client.stream(&path, accept).await?.map_err(|status| refused(&status))?;
    let mut columns = Value::Null;
    while let Some(line) = stream.line().await {
        let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED" | "DELETED") => {
                let mut table = event["object"].clone();
                // Only the first table of a watch names its columns.
                if table["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()) {
                    columns = table["columnDefinitions"].clone();
                }
                table["columnDefinitions"] = columns.clone();
                print_table(&table, kind, output, get.all_namespaces, false, false, &mut widths);
            }
            Some("ERROR") => {
                let message = event["object"]["message"].as_str().unwrap_or("unknown reason");
                return Err(Failure::new(format!("the watch ended: {message}")));
            }
            _ => (),
        }
    }
    Ok(())
}
