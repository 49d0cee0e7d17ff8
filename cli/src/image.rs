//! `copepod image`: the images of this machine, which its nodes share.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use copepod_images::{BuildSpec, Config, Content, Store};

use crate::{
    failure::{Doing, Failure, Outcome},
    lab::Lab,
};

/// Where a node keeps its images, unless it was told otherwise.
pub const IMAGES_DIR: &str = "/var/lib/copepod/images";

#[derive(Args)]
pub struct Images {
    /// Where the images are [default: those of the local cluster, or of this machine's node]
    #[arg(long, env = "COPEPOD_IMAGES_DIR", global = true)]
    images_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Makes an image of files of this machine
    Build(Build),
    /// Takes the images of an OCI or docker archive (docker save), or of an OCI directory
    Import(Import),
    /// Lists the images
    List,
    /// Forgets an image
    Remove { reference: String },
}

#[derive(Args)]
struct Build {
    /// How the image is to be called: example.org/web:1
    reference: String,
    /// A file: PATH-IN-IMAGE=FILE; may be given several times
    #[arg(long = "file", value_name = "TARGET=SOURCE", value_parser = content)]
    files: Vec<Content>,
    /// A directory that becomes the root
    #[arg(long)]
    directory: Option<PathBuf>,
    /// The program that is run, and its first arguments; may be given several times
    #[arg(long)]
    entrypoint: Vec<String>,
    /// Arguments where the pod names none; may be given several times
    #[arg(long)]
    cmd: Vec<String>,
    /// NAME=VALUE; may be given several times
    #[arg(long)]
    env: Vec<String>,
    /// The user that the program runs as
    #[arg(long, default_value = "")]
    user: String,
    /// The directory that the program runs in
    #[arg(long, default_value = "")]
    working_dir: String,
}

#[derive(Args)]
struct Import {
    path: PathBuf,
    /// How to call an image that brings no name
    #[arg(long)]
    name: Option<String>,
}

pub fn run(images: Images) -> Outcome {
    let directory = images.images_dir.unwrap_or_else(default_directory);
    let store = Store::open(&directory).doing(directory.display())?;
    match images.verb {
        Verb::Build(build) => make(&store, build),
        Verb::Import(import) => {
            let references = store.import(&import.path, import.name.as_deref()).doing(import.path.display())?;
            for reference in references {
                println!("{reference}");
            }
            Ok(())
        }
        Verb::List => {
            for entry in store.list().doing(directory.display())? {
                println!("{:<50} {}", entry.reference.to_string(), entry.id);
            }
            Ok(())
        }
        Verb::Remove { reference } => {
            let parsed = reference.parse().doing(format_args!("{reference:?}"))?;
            if !store.remove(&parsed).doing(&reference)? {
                return Err(Failure::new(format!("there is no image {reference}")));
            }
            store.collect_garbage().doing("removing what nobody needs")?;
            println!("{reference} removed");
            Ok(())
        }
    }
}

/// That of the local cluster where there is one, or where this machine has no node of its own.
fn default_directory() -> PathBuf {
    let lab = Lab::current().images();
    let own = PathBuf::from(IMAGES_DIR);
    if own.exists() && !lab.exists() { own } else { lab }
}

fn make(store: &Store, build: Build) -> Outcome {
    let mut contents = build.files;
    contents.extend(build.directory.map(|source| Content { source, target: "/".into() }));
    if contents.is_empty() {
        return Err(Failure::new("an image of nothing").hint("name its files with --file or --directory"));
    }
    let image = store
        .build(&BuildSpec {
            reference: build.reference.clone(),
            contents,
            config: Config {
                entrypoint: build.entrypoint,
                cmd: build.cmd,
                env: build.env,
                working_dir: build.working_dir,
                user: build.user,
                ..Config::default()
            },
            ..BuildSpec::default()
        })
        .doing(&build.reference)?;
    println!("{} {}", build.reference, image.id);
    Ok(())
}

fn content(text: &str) -> Result<Content, String> {
    let (target, source) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form TARGET=SOURCE"))?;
    Ok(Content { source: source.into(), target: target.into() })
}
