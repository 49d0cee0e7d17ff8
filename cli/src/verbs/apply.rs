//! `copepod apply`: server-side apply of whole directories, checked as a whole before anything is changed.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use copepod_api::{Kind, Status, decode};
use serde_json::Value;

use super::resource;
use crate::{
    client::Client,
    failure::{Doing, Failure, Outcome},
};

const MANAGER: &str = "copepod";

#[derive(Args)]
pub struct Apply {
    /// A file, a directory (its .yaml, .yml and .json files) or - for standard input; may be given several times
    #[arg(long = "filename", short = 'f', required = true)]
    files: Vec<PathBuf>,
    /// Takes over fields that others manage
    #[arg(long)]
    force: bool,
    /// Checks only: the cluster says what it would do, and does nothing
    #[arg(long)]
    dry_run: bool,
}

/// An object of a manifest, and where it stands.
struct Manifest {
    object: Value,
    kind: &'static Kind,
    namespace: String,
    name: String,
    source: Source,
}

struct Source {
    file: String,
    text: std::rc::Rc<str>,
    /// Which document of the file, from 0, and its first line, from 1.
    document: usize,
    line: usize,
}

pub async fn run(apply: Apply, client: &Client, namespace: Option<&str>) -> Outcome {
    let manifests = read(&apply.files, namespace, client.namespace())?;
    if manifests.is_empty() {
        return Err(Failure::new("there is nothing to apply").hint("are there .yaml files in the directory?"));
    }
    check(client, &manifests, apply.force).await?;
    for manifest in &manifests {
        let label = resource::label(manifest.kind, &manifest.name);
        if apply.dry_run {
            println!("{label} can be applied");
            continue;
        }
        let before = client.get(&manifest.path()).await?.ok();
        let after = client
            .apply(&manifest.apply_path(apply.force, false), &manifest.object)
            .await?
            .map_err(|status| manifest.refused(&status))?;
        let done = match before {
            None => "created",
            Some(before) if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"] => {
                "unchanged"
            }
            Some(_) => "configured",
        };
        println!("{label} {done}");
    }
    Ok(())
}

/// All mistakes of all manifests at once, before the first change. A namespace that another manifest makes is not there
/// yet, which is no mistake.
async fn check(client: &Client, manifests: &[Manifest], force: bool) -> Outcome {
    let mut failures = Vec::new();
    for manifest in manifests {
        let made_here =
            manifests.iter().any(|other| other.kind.name == "Namespace" && other.name == manifest.namespace);
        let answer = client.apply(&manifest.apply_path(force, true), &manifest.object).await?;
        if let Err(status) = answer
            && !(made_here && status.code() == 404)
        {
            failures.push(manifest.refused(&status));
        }
    }
    together(failures)
}

fn together(mut failures: Vec<Failure>) -> Outcome {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        n => {
            let texts: Vec<String> = failures.iter().map(|failure| failure.to_string()).collect();
            Err(Failure::new(format!("{n} mistakes, nothing was changed:\n{}", texts.join("\n"))))
        }
    }
}

/// The objects of all files; namespaces first, because others are in them.
fn read(files: &[PathBuf], namespace: Option<&str>, usual: &str) -> Outcome<Vec<Manifest>> {
    let mut manifests = Vec::new();
    let mut failures = Vec::new();
    for (file, text) in texts(files)? {
        let text: std::rc::Rc<str> = text.into();
        let documents = match decode::yaml_documents(text.as_bytes(), &decode::Limits::default()) {
            Ok(documents) => documents,
            Err(error) => {
                let place = error.at.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
                let line = error.at.and_then(|(line, _)| text.lines().nth(line - 1)).unwrap_or_default();
                failures.push(Failure::new(format!("{file}{place}: {}\n    {}", error.message, line.trim_end())));
                continue;
            }
        };
        for (place, document) in documents.into_iter().enumerate() {
            let source = || Source { file: file.clone(), text: text.clone(), document: place, line: document.line };
            if document.value.is_null() {
                continue;
            }
            if let Some(twice) = document.duplicates.first() {
                let path = &twice.path;
                failures.push(Failure::new(format!("{}: {path} is written twice", source().place(path))));
                continue;
            }
            let objects = match document.value["kind"].as_str() {
                Some("List") => document.value["items"].as_array().cloned().unwrap_or_default(),
                _ => vec![document.value.clone()],
            };
            for object in objects {
                match manifest(object, source(), namespace, usual) {
                    Ok(manifest) => manifests.push(manifest),
                    Err(failure) => failures.push(failure),
                }
            }
        }
    }
    together(failures)?;
    manifests.sort_by_key(|manifest| manifest.kind.name != "Namespace");
    Ok(manifests)
}

fn manifest(mut object: Value, source: Source, namespace: Option<&str>, usual: &str) -> Outcome<Manifest> {
    let at = |failure: Failure| Failure {
        message: format!("{}: {}", source.place("kind"), failure.message),
        hint: failure.hint,
    };
    if !object.is_object() {
        return Err(at(Failure::new("a manifest is a mapping with apiVersion, kind and metadata")));
    }
    let kind = resource::kind_of(&object).map_err(at)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(Failure::new(format!("{}: metadata.name is missing", source.place("metadata"))));
    }
    let mut chosen = String::new();
    if kind.is_namespaced() {
        let told = object["metadata"]["namespace"].as_str().map(str::to_owned);
        if let (Some(told), Some(namespace)) = (&told, namespace)
            && told != namespace
        {
            return Err(Failure::new(format!(
                "{}: the manifest says namespace {told}, the command -n {namespace}",
                source.place("metadata.namespace")
            )));
        }
        chosen = told.unwrap_or_else(|| namespace.unwrap_or(usual).to_owned());
        object["metadata"]["namespace"] = Value::String(chosen.clone());
    }
    Ok(Manifest { object, kind, namespace: chosen, name, source })
}

impl Manifest {
    fn path(&self) -> String {
        resource::path(self.kind, &self.namespace, &self.name)
    }

    fn apply_path(&self, force: bool, dry_run: bool) -> String {
        let dry = if dry_run { "&dryRun=All" } else { "" };
        format!("{}?fieldManager={MANAGER}&fieldValidation=Strict&force={force}{dry}", self.path())
    }

    /// A refusal, at the line of the file that it is about.
    fn refused(&self, status: &Status) -> Failure {
        let label = resource::label(self.kind, &self.name);
        let causes = status.details().and_then(|details| details.causes.as_ref());
        let field = causes.and_then(|causes| causes.iter().find_map(|cause| cause.field.clone()));
        let named = field.or_else(|| status.message().split('"').nth(1).map(str::to_owned)).unwrap_or_default();
        let failure =
            Failure::new(format!("{}: {label} cannot be applied: {}", self.source.place(&named), status.message()));
        match status.code() {
            404 if status.message().contains("namespaces") => {
                failure.hint(format!("make the namespace first: add a Namespace {} to the manifests", self.namespace))
            }
            409 => failure.hint("another manager set these fields; leave them out, or take them over with --force"),
            _ => failure,
        }
    }
}

impl Source {
    /// `file:line:column` of a field, or of the nearest part of its path that is written, and the line itself.
    fn place(&self, path: &str) -> String {
        let limits = decode::Limits::default();
        let mut path = path;
        loop {
            if path.is_empty() {
                return format!("{}:{}", self.file, self.line);
            }
            if let Some((line, column)) = decode::yaml_place(self.text.as_bytes(), &limits, self.document, path) {
                let shown = self.text.lines().nth(line - 1).map(str::trim).unwrap_or_default();
                return format!("{}:{line}:{column} ({shown})", self.file);
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }
}

fn texts(files: &[PathBuf]) -> Outcome<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for file in files {
        if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).doing("standard input")?;
            texts.push(("-".to_owned(), text));
        } else if file.is_dir() {
            let mut entries: Vec<PathBuf> = fs::read_dir(file)
                .doing(file.display())?
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json"))
                .collect();
            entries.sort();
            for entry in entries {
                texts.push((entry.display().to_string(), fs::read_to_string(&entry).doing(entry.display())?));
            }
        } else {
            texts.push((file.display().to_string(), fs::read_to_string(file).doing(file.display())?));
        }
    }
    Ok(texts)
}

/// The objects of manifests, for verbs that only need to know which they are: kind, namespace and name.
pub fn named_in(
    files: &[PathBuf],
    namespace: Option<&str>,
    usual: &str,
) -> Outcome<Vec<(&'static Kind, String, String)>> {
    let manifests = read(files, namespace, usual)?;
    Ok(manifests.into_iter().map(|manifest| (manifest.kind, manifest.namespace, manifest.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
apiVersion: v1
kind: ConfigMap
---
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
        - name: a
        - name: b
          imgae: two
";

    fn place(path: &str) -> String {
        Source { file: "web.yaml".into(), text: TEXT.into(), document: 1, line: 4 }.place(path)
    }

    #[test]
    fn a_field_is_found_at_its_place() {
        assert_eq!(place("spec.template.spec.containers[1].imgae"), "web.yaml:12:11 (imgae: two)");
        assert_eq!(place("kind"), "web.yaml:5:1 (kind: Deployment)");
    }

    #[test]
    fn a_field_that_is_missing_is_found_where_it_should_be() {
        assert_eq!(place("spec.selector"), "web.yaml:6:1 (spec:)");
        assert_eq!(place("metadata.name"), "web.yaml:4");
    }
}
