//! The rules of the house, as tests. Each message names the rule and the way out.
//!
//! A rule here is a habit that the compiler cannot hold: who may use whom, what a pure room may know, how files begin. A
//! rule that stands in somebody's way may be changed, on purpose: here, and in ARCHITECTURE.md with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use copepod_api::decode;
use serde_json::Value;

/// A crate, and which of ours it may use. Tests of a crate may use more, so dev-dependencies are not held to it.
struct Room {
    name: &'static str,
    /// Knows no clock, dice, file, socket or async runtime.
    is_pure: bool,
    uses: &'static [&'static str],
}

const fn pure(name: &'static str, uses: &'static [&'static str]) -> Room {
    Room { name, is_pure: true, uses }
}

const fn room(name: &'static str, uses: &'static [&'static str]) -> Room {
    Room { name, is_pure: false, uses }
}

/// From the bottom to the top; a room uses only rooms above it in this list.
const ROOMS: &[Room] = &[
    pure("api", &[]),
    room("proto", &[]),
    // The control plane.
    pure("store", &["api"]),
    pure("access", &["api", "store"]),
    pure("cel", &["api"]),
    pure("protobuf", &["api"]),
    pure("registry", &["api", "store", "access", "cel"]),
    pure("scheduler", &["api", "store"]),
    pure("controllers", &["api", "store"]),
    room("identity", &["api"]),
    room("replica", &["api", "store", "proto"]),
    room("apiserver", &["api", "store", "access", "registry", "protobuf", "identity"]),
    room("nodes", &["api", "store", "identity", "proto"]),
    room(
        "control-plane",
        &[
            "api",
            "proto",
            "store",
            "access",
            "registry",
            "scheduler",
            "controllers",
            "identity",
            "replica",
            "apiserver",
            "nodes",
        ],
    ),
    // The agent.
    pure("pods", &["api"]),
    room("runtime", &["api"]),
    room("images", &[]),
    room("network", &[]),
    room("volumes", &["api"]),
    room("node-agent", &["api", "proto", "identity", "pods", "runtime", "images", "network", "volumes"]),
    // The top.
    room("cli", &["api", "registry", "identity", "control-plane", "runtime", "images", "node-agent"]),
    room("tests", &["api", "store", "registry", "scheduler", "controllers"]),
    room("bench", &["api", "store", "replica", "scheduler", "identity", "control-plane", "node-agent"]),
    room("simulation", &["api", "proto", "store", "registry", "scheduler", "controllers", "replica", "nodes", "pods"]),
];

/// What pure rooms may use of others: values and encodings, nothing that acts.
const PURE_MAY_USE: &[&str] = &[
    "base64",
    "bytes",
    "cel",
    "imbl",
    "jiff",
    "json-patch",
    "k8s-openapi",
    "kube-core",
    "memchr",
    "regex",
    "saphyr-parser",
    "schemars",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "zstd",
];

/// What the clippy.toml of a pure room forbids at least.
const PURE_FORBIDS: &[&str] = &[
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "jiff::Timestamp::now",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::fs::read",
    "std::fs::write",
    "std::fs::File",
    "std::env::var",
    "std::process::Command::new",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// Names that say nothing, and so collect everything.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc"];

/// Panics that stand for work not done.
const UNDONE: &[&str] = &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];

/// Words that tell of how a text was made and not of the program; written backwards, as they would be found here too.
const FOREIGN_WORDS: &[&str] =
    &["tpmorp", "stpmorp", "mll", "smll", "tpgtahc", "tpg", "edualc", "ciporhtna", "ianepo", "tolipoc", "ia"];

/// Where these words are in use for something else: crates of others, and text that is Kubernetes'.
const FOREIGN_WORDS_MAY_STAND_IN: &[&str] = &["Cargo.lock", "api/facts/", "control-plane/apiserver/src/protobuf/"];

/// Directories of somebody's machine, backwards as well.
const FOREIGN_PLACES: &[&str] = &["/tw/pmt/", "/tegrat/pmt/", "/krow/"];

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let mut faults = Vec::new();
    for (name, package) in packages() {
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            faults.push(format!("{name} is a crate of the workspace and no room of the table"));
            continue;
        };
        for used in dependencies(&package).filter_map(|used| used.strip_prefix("copepod-").map(str::to_owned)) {
            if !room.uses.contains(&used.as_str()) {
                faults.push(format!("{name} uses {used}"));
            }
        }
    }
    hold(
        "a room uses only the rooms that the table `ROOMS` allows it",
        "move what is shared down (mostly into api), pass it as a trait or a value, or, where the map itself is wrong, \
         change the table and ARCHITECTURE.md together",
        faults,
    );
}

#[test]
fn the_table_of_rooms_is_true() {
    let packages = packages();
    let mut faults = Vec::new();
    for (place, room) in ROOMS.iter().enumerate() {
        let below: BTreeSet<&str> = ROOMS[..place].iter().map(|room| room.name).collect();
        faults.extend(
            room.uses
                .iter()
                .filter(|used| !below.contains(*used))
                .map(|used| format!("{} may use {used}, which is not above it in the table", room.name)),
        );
        let Some(package) = packages.get(room.name) else {
            faults.push(format!("{} is in the table and not in the workspace", room.name));
            continue;
        };
        let used: BTreeSet<String> = dependencies(package).collect();
        faults.extend(
            room.uses
                .iter()
                .filter(|allowed| !used.contains(&format!("copepod-{allowed}")))
                .map(|allowed| format!("{} may use {allowed} and does not", room.name)),
        );
    }
    hold(
        "the table `ROOMS` says what is, from the bottom to the top",
        "take out what nobody uses any more, so that it does not come back unnoticed; put a new room where it belongs",
        faults,
    );
}

#[test]
fn pure_rooms_are_made_of_values() {
    let packages = packages();
    let mut faults = Vec::new();
    for room in ROOMS.iter().filter(|room| room.is_pure) {
        let Some(package) = packages.get(room.name) else { continue };
        for used in dependencies(package) {
            if !used.starts_with("copepod-") && !PURE_MAY_USE.contains(&used.as_str()) {
                faults.push(format!("{} depends on {used}", room.name));
            }
        }
    }
    hold(
        "pure rooms know no clock, dice, file, socket or async runtime",
        "do it in the room that carries decisions out, and hand what came of it over as an argument; if the crate is one \
         of values only, add it to `PURE_MAY_USE`",
        faults,
    );
}

#[test]
fn pure_rooms_say_what_they_may_not_do() {
    let packages = packages();
    let mut faults = Vec::new();
    for room in ROOMS.iter().filter(|room| room.is_pure) {
        let Some(package) = packages.get(room.name) else { continue };
        let file = directory_of(package).join("clippy.toml");
        let text = fs::read_to_string(&file).unwrap_or_default();
        faults.extend(
            PURE_FORBIDS
                .iter()
                .filter(|path| !text.contains(&format!("\"{path}\"")))
                .map(|path| format!("{} does not forbid {path}", shown(&file))),
        );
    }
    hold(
        "every pure room has a clippy.toml that forbids clocks, dice, files, sockets and unordered maps, with reasons",
        "copy the one of a neighbour and fit the reasons: they are what the next author reads",
        faults,
    );
}

#[test]
fn crates_share_the_lints_and_leave_doctests_out() {
    let mut faults = Vec::new();
    for package in packages().values() {
        let file = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let text = read(&file);
        if !text.contains("[lints]\nworkspace = true") {
            faults.push(format!("{} has no `[lints]` with `workspace = true`", shown(&file)));
        }
        let is_library = array(&package["targets"]).any(|target| target["kind"][0] == "lib");
        if is_library && !text.contains("doctest = false") {
            faults.push(format!("{} has no `doctest = false` in its `[lib]`", shown(&file)));
        }
    }
    hold(
        "all crates have the workspace's lints, and examples are tests like others",
        "add the lines to the crate's Cargo.toml",
        faults,
    );
}

#[test]
fn no_module_is_called_for_what_does_not_fit_elsewhere() {
    let mut faults = Vec::new();
    for file in files() {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_lowercase();
        let parent = file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        if EMPTY_NAMES.contains(&stem.as_str()) || EMPTY_NAMES.contains(&parent) {
            faults.push(shown(&file));
        }
    }
    for (file, text) in sources() {
        let inline = text.lines().filter_map(module).filter(|name| EMPTY_NAMES.contains(&name.as_str()));
        faults.extend(inline.map(|name| format!("{}: mod {name}", shown(&file))));
    }
    hold(
        "files and modules are called for what they are about",
        "find the noun that the code is about and name the file for it; what has none belongs beside its one caller",
        faults,
    );
}

#[test]
fn every_source_begins_with_what_it_is_about() {
    let faults = sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(file, _)| shown(&file));
    hold(
        "every .rs file begins with a `//!` document",
        "say in one sentence what the file is about, and why it is there if that is not plain",
        faults.collect(),
    );
}

#[test]
fn no_source_lies_outside_the_program() {
    let sources = sources();
    let named: BTreeSet<PathBuf> = sources
        .iter()
        .flat_map(|(file, text)| {
            let children = children_of(file);
            text.lines().filter_map(module).map(move |name| children.join(name)).collect::<Vec<_>>()
        })
        .collect();
    let faults = sources.iter().map(|(file, _)| file).filter(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let module = if name == "mod.rs" { file.parent().map(Path::to_owned) } else { Some(file.with_extension("")) };
        !is_root(file) && module.is_none_or(|module| !named.contains(&module))
    });
    hold(
        "every .rs file is a module of its crate",
        "write the `mod` line that is missing, or delete the file: what is not compiled is not true for long",
        faults.map(|file| shown(file)).collect(),
    );
}

#[test]
fn nothing_undone_is_called_done() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            faults.extend(
                UNDONE
                    .iter()
                    .filter(|call| line.contains(*call))
                    .map(|call| format!("{}:{number}: {call}", shown(&file))),
            );
        }
    }
    hold(
        "no source stands in for work that is not done, and none prints what only its author wants to know",
        "do it; or refuse the case with an error that says what is not supported, and what to do instead",
        faults,
    );
}

#[test]
fn the_repository_speaks_of_the_program_only() {
    let words: BTreeSet<String> = FOREIGN_WORDS.iter().map(|word| backwards(word)).collect();
    let places: Vec<String> = FOREIGN_PLACES.iter().map(|place| backwards(place)).collect();
    let mut faults = Vec::new();
    for file in files() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let file = shown(&file);
        let may_have_words = FOREIGN_WORDS_MAY_STAND_IN.iter().any(|place| file.starts_with(place));
        for (number, line) in (1..).zip(text.lines()) {
            let found = line
                .split(|letter: char| !letter.is_alphanumeric())
                .find(|word| !may_have_words && words.contains(&word.to_lowercase()));
            faults.extend(found.map(|word| format!("{file}:{number}: {word:?}")));
            let found = places.iter().find(|place| begins_a_path(line, place));
            faults.extend(found.map(|place| format!("{file}:{number}: {place:?}")));
        }
    }
    hold(
        "the repository speaks of the program, not of how its text came about or of the machine it was written on",
        "say what the code does and why; use paths inside the repository, or those of an installed program",
        faults,
    );
}

#[test]
fn scripts_run_and_stop_at_the_first_failure() {
    let mut faults = Vec::new();
    for file in files() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let is_shell =
            text.lines().next().is_some_and(|line| line.starts_with("#!") && line.trim_end().ends_with("sh"));
        if !is_shell && file.extension().is_none_or(|end| end != "sh") {
            continue;
        }
        let mode = fs::metadata(&file).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
        if mode & 0o111 == 0 {
            faults.push(format!("{} is not executable", shown(&file)));
        }
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
        if !first.starts_with("set -eu") {
            faults.push(format!("{} begins with {first:?}", shown(&file)));
        }
    }
    hold(
        "shell scripts are executable, and their first command is `set -eu`",
        "chmod +x, and write `set -eu` below the comment on top",
        faults,
    );
}

#[test]
fn example_manifests_are_good() {
    let mut faults = Vec::new();
    for file in files() {
        let is_manifest = file.starts_with(root().join("manifests"));
        if !is_manifest || file.extension().is_none_or(|end| end != "yaml" && end != "yml") {
            continue;
        }
        let documents = match decode::yaml_documents(read(&file).as_bytes(), &decode::Limits::default()) {
            Ok(documents) => documents,
            Err(error) => {
                faults.push(format!("{}: {error}", shown(&file)));
                continue;
            }
        };
        if documents.is_empty() {
            faults.push(format!("{} is empty", shown(&file)));
        }
        for document in documents {
            let place = format!("{}:{}", shown(&file), document.line);
            faults.extend(document.duplicates.iter().map(|field| format!("{place}: {} is written twice", field.path)));
            let api_version = document.value["apiVersion"].as_str().unwrap_or_default();
            let kind = document.value["kind"].as_str().unwrap_or_default();
            let is_served = copepod_registry::rows()
                .iter()
                .any(|row| row.kind.api_version() == api_version && row.kind.name == kind);
            if !is_served {
                faults.push(format!("{place}: no kind {kind:?} in {api_version:?} is served"));
            }
        }
    }
    hold(
        "everything under manifests/ parses and is of a kind that is served",
        "mend the manifest, or keep it back until its kind is there",
        faults,
    );
}

#[test]
fn the_map_names_what_is_there() {
    let map = read(&root().join("ARCHITECTURE.md"));
    let files: Vec<String> = files().iter().map(|file| format!("/{}", shown(file))).collect();
    let is_named = |word: &&str| {
        let is_source = [".rs", ".proto", ".toml", ".txt", ".tsv"].iter().any(|end| word.ends_with(end));
        is_source && !word.contains([' ', '<', '*'])
    };
    // What stands between backticks is every second piece.
    let faults = map.split('`').skip(1).step_by(2).filter(is_named).filter(|word| {
        let end = format!("/{}", word.trim_start_matches('/'));
        !files.iter().any(|file| file.ends_with(&end))
    });
    hold(
        "ARCHITECTURE.md names files that are there",
        "when a file moves, or an idea moves to another file, the map moves with it",
        faults.map(str::to_owned).collect(),
    );
}

fn hold(rule: &str, way_out: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "\nrule: {rule}\nway out: {way_out}\n\n  {}\n", faults.join("\n  "));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// A path as people know it: from the root of the repository.
fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", shown(file)))
}

/// The crates of the workspace by their names without `copepod-`.
fn packages() -> BTreeMap<String, Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let packages = array(&metadata["packages"]).map(|package| {
        let name = package["name"].as_str().unwrap_or_default();
        (name.strip_prefix("copepod-").unwrap_or(name).to_owned(), package.clone())
    });
    packages.collect()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What a crate itself is built with.
fn dependencies(package: &Value) -> impl Iterator<Item = String> {
    let own = array(&package["dependencies"]).filter(|dependency| dependency["kind"] != "dev");
    own.map(|dependency| dependency["name"].as_str().unwrap_or_default().to_owned())
}

fn directory_of(package: &Value) -> PathBuf {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    manifest.parent().map(Path::to_owned).unwrap_or_default()
}

/// All files of the repository: everything but git's own directory and what cargo builds.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the repository").flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    let is_built = path.join("CACHEDIR.TAG").exists() || entry.file_name() == "target";
                    if entry.file_name() != ".git" && !is_built {
                        directories.push(path);
                    }
                }
                Ok(kind) if kind.is_file() && entry.file_name() != ".git" => files.push(path),
                _ => (),
            }
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<(PathBuf, String)> {
    let sources = files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    sources.map(|file| (file.clone(), read(&file))).collect()
}

/// The name in a line that declares a module.
fn module(line: &str) -> Option<String> {
    let line = line.trim_start();
    let line = line
        .strip_prefix("pub ")
        .or_else(|| line.split_once(") ").filter(|(scope, _)| scope.starts_with("pub(")).map(|(_, rest)| rest))
        .unwrap_or(line);
    let name = line.strip_prefix("mod ")?.trim_end_matches(['{', ';', ' ', '}']);
    name.chars().all(|letter| letter.is_alphanumeric() || letter == '_').then(|| name.to_owned())
}

/// Where a file's modules are: beside it if it is the root of a crate or a `mod.rs`, in a directory of its name otherwise.
fn children_of(file: &Path) -> PathBuf {
    let is_mod = file.file_name().is_some_and(|name| name == "mod.rs");
    let directory =
        if is_mod || is_root(file) { file.parent().map(Path::to_owned) } else { Some(file.with_extension("")) };
    directory.unwrap_or_default()
}

/// Whether cargo or rustc begins with this file.
fn is_root(file: &Path) -> bool {
    let file = shown(file);
    let in_directory = |name: &str| file.rsplit_once('/').is_some_and(|(directory, _)| directory.ends_with(name));
    ["/lib.rs", "/main.rs", "build.rs"].iter().any(|name| file.ends_with(name))
        || in_directory("src/bin")
        || in_directory("/tests") && !file.contains("/src/")
        || in_directory("/benches")
        || in_directory("fuzz_targets")
        || file.starts_with("manifests/")
}

fn backwards(word: &str) -> String {
    word.chars().rev().collect()
}

/// Whether a path beginning with `place` stands in a line: not as the end of a longer one.
fn begins_a_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|letter| letter.is_whitespace() || "\"'`(=:<[".contains(letter))
    })
}
