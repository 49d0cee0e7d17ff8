//! Makes sure that an image is here, and fetches it if it is not.
//!
//! A blob is written under its lock to a file that keeps its name across attempts, so what was received before the line
//! broke, or the agent was restarted, is not fetched again; and of several agents that want one blob at one moment, one
//! fetches and the others wait. A layer is unpacked as soon as it is here, while others still arrive. The name is written
//! last: it never leads to half an image.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, SeekFrom},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared, try_join_all},
};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
    sync::Semaphore,
};

use crate::{
    Credential, Digest, Image, ImageError, Layer, Platform, Reference, Store,
    digest::{Hasher, HashingReader},
    document::{Document, INDEX_DEPTH_MAX, Manifest},
    layer::unpack_once,
    login::matching,
    registry::{Endpoint, Refusal, Registry},
    store::publish,
};

/// How many layers an agent receives and unpacks at once. One connection rarely fills a line, four mostly do; unpacking
/// takes a processor each.
const LAYERS_AT_ONCE: usize = 4;

/// How often a blob is taken up again without a byte of progress, before the next source is asked.
const FRUITLESS_ATTEMPTS_MAX: u32 = 3;

/// Before the first of them; doubled for each.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Asks the registry what the name means now; what is here already is not fetched again.
    Always,
    IfNotPresent,
    Never,
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnsureError {
    #[error("{0}")]
    InvalidName(String),
    #[error("{0}")]
    NeverPull(String),
    #[error("{0}")]
    Failed(String),
}

type Outcome = Result<Image, EnsureError>;
type UnderWay = BTreeMap<(String, Vec<Credential>), WeakShared<BoxFuture<'static, Outcome>>>;

/// Fetches images into a store.
pub struct Puller {
    shared: std::sync::Arc<Fetcher>,
    /// Whoever wants what another already fetches with the same logins, waits with it. When nobody waits any more, the
    /// fetching ends.
    under_way: Mutex<UnderWay>,
}

struct Fetcher {
    store: Store,
    mirrors: BTreeMap<String, Vec<Endpoint>>,
    layers: Semaphore,
}

impl Puller {
    /// `mirrors` are pairs of a registry (`*` for all) and an address to ask before it, in the order of asking.
    pub fn new(store: Store, mirrors: &[(String, String)]) -> Result<Puller, ImageError> {
        let mut by_registry: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for (registry, url) in mirrors {
            by_registry.entry(registry.clone()).or_default().push(Endpoint::mirror(url)?);
        }
        let fetcher = Fetcher { store, mirrors: by_registry, layers: Semaphore::new(LAYERS_AT_ONCE) };
        Ok(Puller { shared: fetcher.into(), under_way: Mutex::default() })
    }

    /// The image that `reference` means, whole and unpacked.
    pub async fn ensure(&self, reference: &str, policy: PullPolicy, credentials: &[Credential]) -> Outcome {
        let reference: Reference = reference.parse().map_err(|error| match error {
            ImageError::InvalidName(reason) => EnsureError::InvalidName(reason),
            error => EnsureError::Failed(error.to_string()),
        })?;
        if policy != PullPolicy::Always {
            match self.shared.local(&reference).await {
                Ok(Some(image)) => return Ok(image),
                // Damaged: a fresh copy mends it.
                Ok(None) | Err(ImageError::Malformed(_)) => (),
                Err(error) => return Err(EnsureError::Failed(error.to_string())),
            }
        }
        if policy == PullPolicy::Never {
            return Err(EnsureError::NeverPull(format!(
                "{reference} is not on this node, and imagePullPolicy: Never forbids to fetch it"
            )));
        }
        let fetched = self.fetch_together(&reference, credentials).await;
        match fetched {
            Err(EnsureError::Failed(reason)) if policy == PullPolicy::Always && self.shared.has(&reference).await => {
                Err(EnsureError::Failed(format!(
                    "{reason}; it is on this node already, which imagePullPolicy: IfNotPresent would be content with"
                )))
            }
            fetched => fetched,
        }
    }

    fn fetch_together(&self, reference: &Reference, credentials: &[Credential]) -> Shared<BoxFuture<'static, Outcome>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(|lock| lock.into_inner());
        under_way.retain(|_, fetching| fetching.upgrade().is_some_and(|fetching| fetching.peek().is_none()));
        let key = (reference.to_string(), credentials.to_vec());
        if let Some(fetching) = under_way.get(&key).and_then(WeakShared::upgrade) {
            return fetching;
        }
        let (fetcher, reference, credentials) = (self.shared.clone(), reference.clone(), credentials.to_vec());
        let fetching = async move { fetcher.fetch(&reference, &credentials).await }.boxed().shared();
        under_way.extend(fetching.downgrade().map(|weak| (key, weak)));
        fetching
    }
}

/// Why one source did not give the image.
enum Trouble {
    Refused(Refusal),
    /// Not the source's fault: another one would not help.
    Here(ImageError),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble::Refused(refusal)
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Trouble {
        match error {
            ImageError::Malformed(reason) => Trouble::Refused(Refusal::Content(reason)),
            ImageError::Missing(reason) => Trouble::Refused(Refusal::Missing(reason)),
            error => Trouble::Here(error),
        }
    }
}

impl Fetcher {
    async fn local(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        let (store, reference) = (self.store.clone(), reference.clone());
        blocking(move || {
            let image = store.find(&reference)?;
            image.iter().try_for_each(|image| store.unpack(image))?;
            Ok(image)
        })
        .await
    }

    async fn has(&self, reference: &Reference) -> bool {
        matches!(self.local(reference).await, Ok(Some(_)))
    }

    async fn fetch(&self, reference: &Reference, credentials: &[Credential]) -> Outcome {
        let store = self.store.clone();
        let failed = |reason: String| EnsureError::Failed(format!("cannot fetch {reference}: {reason}"));
        // Until the end, so that nothing is collected before the name leads to it.
        let _held = blocking(move || store.shared()).await.map_err(|error| failed(error.to_string()))?;
        let mut reasons: Vec<String> = Vec::new();
        for endpoint in self.endpoints(reference) {
            for login in logins(&endpoint, reference, credentials) {
                match self.fetch_from(&endpoint, reference, login).await {
                    Ok(image) => return Ok(image),
                    Err(Trouble::Here(error)) => return Err(failed(error.to_string())),
                    Err(Trouble::Refused(refusal)) => {
                        if !reasons.iter().any(|reason| reason == refusal.reason()) {
                            reasons.push(refusal.reason().to_owned());
                        }
                        if !matches!(refusal, Refusal::Login(_)) {
                            break;
                        }
                    }
                }
            }
        }
        Err(failed(reasons.join("; ")))
    }

    fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let own = self.mirrors.get(reference.registry()).into_iter().flatten();
        let general = self.mirrors.get("*").into_iter().flatten();
        own.chain(general).cloned().chain([Endpoint::origin(reference.registry())]).collect()
    }

    async fn fetch_from(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        login: Option<&Credential>,
    ) -> Result<Image, Trouble> {
        let registry = Registry::new(endpoint, reference, login);
        let mut wanted = reference.digest().cloned();
        let mut index: Option<Digest> = None;
        for _ in 0..INDEX_DEPTH_MAX {
            let bytes = match &wanted {
                Some(digest) if index.is_some() && self.store.has_blob(digest) => {
                    self.store.read_document(digest)?.into()
                }
                wanted => registry.manifest(wanted.as_ref()).await?,
            };
            let what = format!("what {} has as {reference}", endpoint.base);
            let document = Document::parse(&bytes, &what)?;
            let store = self.store.clone();
            let found = blocking(move || store.put(&bytes)).await?;
            match document {
                Document::Index(entries) => {
                    wanted = Some(Platform::here().choose(&entries, &what)?.digest.clone());
                    index.get_or_insert(found);
                }
                Document::Manifest(manifest) => {
                    return self.fetch_content(&registry, reference, manifest, found, index).await;
                }
            }
        }
        Err(Refusal::Content(format!("{} nests an index more than {INDEX_DEPTH_MAX} times", endpoint.base)).into())
    }

    async fn fetch_content(
        &self,
        registry: &Registry<'_>,
        reference: &Reference,
        manifest: Manifest,
        digest: Digest,
        index: Option<Digest>,
    ) -> Result<Image, Trouble> {
        self.blob(registry, &manifest.config.digest, manifest.config.size).await?;
        // What it is for, and how many layers it has, is known before the first of them is fetched.
        let image = self.store.image_for_here(&digest, &reference.to_string())?;
        try_join_all(image.layers.iter().map(|layer| self.layer(registry, layer))).await?;
        let (store, reference, named) = (self.store.clone(), reference.clone(), image.clone());
        blocking(move || store.name(&reference, &named, index)).await?;
        Ok(image)
    }

    async fn layer(&self, registry: &Registry<'_>, layer: &Layer) -> Result<(), Trouble> {
        // Never closed; and if it were, fetching would go on unbounded rather than not at all.
        let _permit = self.layers.acquire().await.ok();
        self.blob(registry, &layer.blob, layer.size).await?;
        let (store, layer) = (self.store.clone(), layer.clone());
        Ok(blocking(move || unpack_once(&store, &layer)).await?)
    }

    async fn blob(&self, registry: &Registry<'_>, digest: &Digest, size: u64) -> Result<(), Trouble> {
        if self.store.has_blob(digest) {
            return Ok(());
        }
        let (store, locked) = (self.store.clone(), digest.clone());
        let _lock = blocking(move || store.exclusive("blob", &locked)).await?;
        if self.store.has_blob(digest) {
            return Ok(());
        }
        let path = self.store.dir().join("ingest").join(format!("partial-{}", digest.hex()));
        let mut partial = Partial::open(&path).await?;
        let mut fruitless = 0;
        while !partial.is_complete(digest, size).await? {
            let before = partial.hasher.bytes;
            match partial.receive(registry, digest, size).await {
                Ok(()) => (),
                Err(Trouble::Refused(Refusal::Unreachable(reason))) => {
                    fruitless = if partial.hasher.bytes > before { 0 } else { fruitless + 1 };
                    if fruitless == FRUITLESS_ATTEMPTS_MAX {
                        return Err(Refusal::Unreachable(reason).into());
                    }
                    tracing::debug!(%digest, reason, received = partial.hasher.bytes, "a blob is taken up again");
                    tokio::time::sleep(ATTEMPT_PAUSE * 2_u32.pow(fruitless)).await;
                }
                Err(trouble) => {
                    // A full disk is not to be kept full by what was meant for it.
                    if matches!(trouble, Trouble::Here(_)) {
                        let _ = fs::remove_file(&path);
                    }
                    return Err(trouble);
                }
            }
        }
        partial.file.sync_all().await.map_err(|error| Trouble::Here(partial_error(&path)(error)))?;
        let to = self.store.blob_path(digest);
        Ok(blocking(move || publish(&path, &to)).await?)
    }
}

/// The beginning of a blob, and the state of its digest.
struct Partial {
    file: File,
    hasher: Hasher,
    path: std::path::PathBuf,
}

impl Partial {
    async fn open(path: &Path) -> Result<Partial, ImageError> {
        let what = path.to_owned();
        let (file, hasher) = blocking(move || {
            let open = || {
                let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(&what)?;
                let mut earlier = HashingReader::new(file.try_clone()?);
                io::copy(&mut earlier, &mut io::sink())?;
                Ok((file, earlier.hasher))
            };
            open().map_err(partial_error(&what))
        })
        .await?;
        // Both handles share one position, which is at the end.
        Ok(Partial { file: File::from_std(file), hasher, path: path.to_owned() })
    }

    /// What was received before and is wrong is thrown away here, and what is wrong now is refused in `receive`.
    async fn is_complete(&mut self, digest: &Digest, size: u64) -> Result<bool, Trouble> {
        if self.hasher.bytes < size {
            return Ok(false);
        }
        if self.hasher.bytes == size && self.hasher.clone().digest() == *digest {
            return Ok(true);
        }
        self.restart().await?;
        // An empty blob that is not the empty blob would be asked for without end.
        if size == 0 { Err(Refusal::Content(format!("{digest} cannot have no bytes")).into()) } else { Ok(false) }
    }

    async fn receive(&mut self, registry: &Registry<'_>, digest: &Digest, size: u64) -> Result<(), Trouble> {
        let (begins, mut content) = registry.blob(digest, self.hasher.bytes).await?;
        let resumed = begins > 0;
        if begins != self.hasher.bytes {
            self.restart().await?;
        }
        loop {
            let bytes = match content.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(refusal) => {
                    self.flush().await?;
                    return Err(refusal.into());
                }
            };
            if self.hasher.bytes + bytes.len() as u64 > size {
                self.restart().await?;
                return Err(Refusal::Content(format!("{digest} should have {size} bytes, and more were sent")).into());
            }
            self.hasher.update(&bytes);
            self.file.write_all(&bytes).await.map_err(partial_error(&self.path))?;
        }
        self.flush().await?;
        if self.hasher.bytes < size {
            let received = self.hasher.bytes;
            return Err(Refusal::Unreachable(format!("{digest} ended after {received} of {size} bytes")).into());
        }
        let found = self.hasher.clone().digest();
        // If an earlier life received the beginning, that may be what is wrong; a whole answer has no such excuse.
        if found != *digest && !resumed {
            self.restart().await?;
            return Err(Refusal::Content(format!("what was sent as {digest} is {found}")).into());
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), ImageError> {
        self.hasher = Hasher::default();
        self.flush().await?;
        self.file.set_len(0).await.map_err(partial_error(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).await.map_err(partial_error(&self.path))?;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ImageError> {
        self.file.flush().await.map_err(partial_error(&self.path))
    }
}

fn partial_error(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    ImageError::io(path.display().to_string())
}

/// The logins to try. A mirror gets its own and never the registry's.
fn logins<'a>(
    endpoint: &Endpoint,
    reference: &Reference,
    credentials: &'a [Credential],
) -> Vec<Option<&'a Credential>> {
    let matching = if endpoint.is_mirror {
        let authority = endpoint.base.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        let there = format!("{authority}/{}", reference.repository()).parse::<Reference>();
        there.map(|there| matching(credentials, &there)).unwrap_or_default()
    } else {
        matching(credentials, reference)
    };
    if matching.is_empty() { vec![None] } else { matching.into_iter().map(Some).collect() }
}

/// File work, off the threads that wait for sockets.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ImageError::Busy(format!("work on the image store ended early: {error}"))),
    }
}
