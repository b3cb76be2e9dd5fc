//! Models and versions in an object store.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::Write,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use grey_core::{Error, ErrorKind, Label, ModelId, ModelRef, Result, Signature, Version, VersionChoice};
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, WriteMultipart, path::Path as StorePath,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, RwLock};

use crate::{
    data_folder::is_temporary,
    hash::{FilePath, ModelHash, Sha256Hash},
    manifest::{DOCUMENT_BYTES_MAX, Document, Example, Index, IndexEntry, Manifest, ModelFile, UploadName, parse},
};

/// Files of one version.
const FILES_MAX: usize = 10_000;
/// Labels of one model: they stand in every entry of its index.
const LABELS_MAX: usize = 1000;
/// Largest example request, in bytes: about what a request with some large images has.
const EXAMPLE_BYTES_MAX: usize = 64 << 20;
/// Digits of an index entry's name, so that names sort as numbers do.
const SEQUENCE_DIGITS: usize = 12;
/// Uploads to a store that may be under way at once for one file.
const PARTS_IN_FLIGHT_MAX: usize = 4;

/// The time, as whoever owns the catalog tells it: Unix seconds.
pub type Now = fn() -> u64;

/// Models and versions in an object store. Cheap to clone. One process writes to a store at a
/// time (the data folder's lock sees to that); the index is read once and kept in memory.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    now: Now,
    models: RwLock<BTreeMap<ModelId, Arc<Index>>>,
    /// Models whose index or manifests could not be read at the start, and why. They are left as they
    /// are and refused by name; the others are served.
    unreadable: BTreeMap<ModelId, Error>,
    /// Held while an index entry is made.
    writing: Mutex<()>,
    /// Names of uploads of this process, so that a sweep leaves them alone.
    uploads: std::sync::Mutex<HashSet<UploadName>>,
}

/// What the node knows of a version when its files are there.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The engine that opens it.
    pub engine: String,
    /// What it takes and gives.
    pub signature: Signature,
    /// Free metadata.
    pub metadata: BTreeMap<String, String>,
}

fn model_path(id: &ModelId) -> StorePath {
    StorePath::from_iter(["models", id.as_str()])
}

fn manifest_path(id: &ModelId, version: &Version) -> StorePath {
    StorePath::from_iter(["models", id.as_str(), "versions", version.as_str(), "manifest.json"])
}

fn entry_path(id: &ModelId, sequence: u64) -> StorePath {
    StorePath::from_iter(["models", id.as_str(), "index", &format!("{sequence:0SEQUENCE_DIGITS$}.json")])
}

fn example_path(id: &ModelId, example: &Example) -> StorePath {
    StorePath::from_iter(["models", id.as_str(), "examples", &example.sha256.to_string()])
}

fn upload_path(id: &ModelId, upload: &UploadName) -> StorePath {
    StorePath::from_iter(["models", id.as_str(), "files", upload.as_str()])
}

/// The file's own name, unescaped: engines open the files of a version by the names that the model
/// gives them. A [`FilePath`] has no part that a store path refuses.
fn file_path(id: &ModelId, upload: &UploadName, file: &FilePath) -> Result<StorePath> {
    let path = format!("{}/{file}", upload_path(id, upload));
    StorePath::parse(&path).map_err(|e| Error::invalid(format!("no store keeps a file named '{file}': {e}")))
}

/// The kind of an error in holding a file: [`ErrorKind::Unavailable`] where the node is short of something, which
/// may pass and is no fault of what it holds.
pub fn holding_failed(e: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    match (e.kind(), e.raw_os_error()) {
        // The last two, ENFILE and EMFILE, have no kind of their own.
        (OutOfMemory | QuotaExceeded | StorageFull, _) | (_, Some(23 | 24)) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn store_error(what: &str, path: &StorePath, e: &object_store::Error) -> Error {
    // The whole chain: "builder error" alone helps nobody.
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        let s_text = s.to_string();
        if !text.contains(&s_text) {
            text = format!("{text}: {s_text}");
        }
        source = s.source();
    }
    Error::internal(format!("registry: cannot {what} {path}: {text}"))
}

impl Catalog {
    /// Reads the index of every model (one that cannot be read is refused from then on, the others
    /// are not) and sweeps away what interrupted changes left behind.
    pub async fn open(store: Arc<dyn ObjectStore>, now: Now) -> Result<Catalog> {
        let inner = Inner {
            store,
            now,
            models: RwLock::default(),
            unreadable: BTreeMap::new(),
            writing: Mutex::new(()),
            uploads: std::sync::Mutex::default(),
        };
        let mut catalog = Catalog(Arc::new(inner));
        let (mut models, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        let root = StorePath::from("models");
        let listed = catalog.0.store.list_with_delimiter(Some(&root)).await;
        let listed = listed.map_err(|e| store_error("list", &root, &e))?;
        for prefix in listed.common_prefixes {
            let name = prefix.filename().unwrap_or_default();
            let id = match ModelId::new(name) {
                Ok(id) => id,
                Err(e) => {
                    tracing::error!("registry: {prefix} is no model of this node and is left alone: {e}");
                    continue;
                }
            };
            match catalog.read_index(&id).await {
                Ok(Some(index)) => {
                    catalog.sweep(&id, Some(&index)).await;
                    models.insert(id, Arc::new(index));
                }
                Ok(None) => catalog.sweep(&id, None).await,
                Err(e) => {
                    tracing::error!(model = %id, "cannot be read and is refused: {e}");
                    unreadable.insert(id, e);
                }
            }
        }
        // Nobody else has a share of it yet.
        if let Some(inner) = Arc::get_mut(&mut catalog.0) {
            (inner.models, inner.unreadable) = (RwLock::new(models), unreadable);
        }
        Ok(catalog)
    }

    /// Every model that has versions, by name.
    pub async fn list(&self) -> Vec<(ModelId, Arc<Index>)> {
        let models = self.0.models.read().await;
        let live = models.iter().filter(|(_, i)| !i.entry.versions.is_empty());
        live.map(|(id, i)| (id.clone(), i.clone())).collect()
    }

    /// Models that could not be read at the start, and why.
    pub fn unreadable(&self) -> &BTreeMap<ModelId, Error> {
        &self.0.unreadable
    }

    fn readable(&self, id: &ModelId) -> Result<()> {
        self.0.unreadable.get(id).map_or(Ok(()), |e| Err(e.clone()))
    }

    /// A model's index. `NotFound` if it has no versions.
    pub async fn index(&self, id: &ModelId) -> Result<Arc<Index>> {
        self.readable(id)?;
        let index = self.0.models.read().await.get(id).filter(|i| !i.entry.versions.is_empty()).cloned();
        index.ok_or_else(|| Error::not_found(format!("Request for unknown model: '{id}' is not found")))
    }

    /// The version that a request means. `NotFound` names the versions that there are.
    pub async fn resolve(&self, model: &ModelRef) -> Result<Arc<Manifest>> {
        let index = self.index(&model.id).await?;
        let version = match &model.version {
            VersionChoice::Latest => index.latest(),
            VersionChoice::Exact(v) => Some(v),
        };
        let named = |v: &Version| index.manifests.get(v);
        let meant = |v: &Version| index.entry.labels.get(v.as_str()).and_then(named);
        version.and_then(|v| named(v).or_else(|| meant(v))).cloned().ok_or_else(|| {
            let there: Vec<&str> = index.manifests.keys().map(Version::as_str).collect();
            let labels: Vec<&str> =
                index.entry.labels.keys().map(Label::as_str).filter(|l| *l != Label::LATEST).collect();
            let asked = version.map_or(Label::LATEST, Version::as_str);
            let and = if labels.is_empty() { String::new() } else { format!(", and labels {}", labels.join(", ")) };
            Error::not_found(format!(
                "Request for unknown model: '{}' version '{asked}' is not found; there are versions {}{and}",
                model.id,
                there.join(", ")
            ))
        })
    }

    /// Writes a file's bytes to `out`, hashing them on the way. What is written is right only if
    /// this returns `Ok`: a wrong hash or size is [`ErrorKind::LoadFailed`] with both values.
    pub async fn fetch(
        &self,
        id: &ModelId,
        upload: &UploadName,
        file: &ModelFile,
        out: &mut (dyn Write + Send),
    ) -> Result<()> {
        let path = file_path(id, upload, &file.path)?;
        // Never more than the manifest says: `out` may be memory, and a changed file have any size.
        let other_size = |found: u64| {
            let m = format!(
                "file '{}' of model '{id}' was changed: the manifest says SHA-256 {} and {} bytes, the registry holds \
                 {found} bytes",
                file.path, file.sha256, file.size
            );
            Error::new(ErrorKind::LoadFailed, m)
        };
        // Looked at before it is opened: who opens a pipe waits for its other end.
        let found = match self.0.store.head(&path).await {
            Ok(meta) if meta.size > file.size || (meta.size == 0 && file.size > 0) => {
                return Err(other_size(meta.size));
            }
            Ok(meta) if meta.size == 0 => Ok(None),
            Ok(_) => self.0.store.get(&path).await.map(Some),
            Err(e) => Err(e),
        };
        let mut bytes = match found {
            Ok(None) => futures_util::stream::empty().boxed(),
            Ok(Some(r)) => r.into_stream(),
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::new(
                    ErrorKind::LoadFailed,
                    format!(
                        "file '{}' of model '{id}' is gone from the registry ({path}): the manifest says SHA-256 {} and {} \
                         bytes",
                        file.path, file.sha256, file.size
                    ),
                ));
            }
            Err(e) => {
                return Err(store_error("read", &path, &e).context(format!(
                    "file '{}' of model '{id}', expected with SHA-256 {} and {} bytes, cannot be read",
                    file.path, file.sha256, file.size
                )));
            }
        };
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        while let Some(chunk) = bytes.try_next().await.map_err(|e| store_error("read", &path, &e))? {
            size += chunk.len() as u64;
            if size > file.size {
                return Err(other_size(size));
            }
            hash.update(&chunk);
            out.write_all(&chunk).map_err(|e| {
                Error::new(holding_failed(&e), format!("cannot hold file '{}' of model '{id}': {e}", file.path))
            })?;
        }
        let found = Sha256Hash(hash.finalize().into());
        if (found, size) != (file.sha256, file.size) {
            return Err(Error::new(
                ErrorKind::LoadFailed,
                format!(
                    "file '{}' of model '{id}' was changed: the manifest says SHA-256 {} and {} bytes, the registry \
                     holds {found} and {size} bytes",
                    file.path, file.sha256, file.size
                ),
            ));
        }
        Ok(())
    }

    /// Begins to add a version: the next integer if none is named.
    pub async fn begin_add(&self, id: ModelId, version: Option<Version>) -> Result<AddSession> {
        self.readable(&id)?;
        // Straight from the map: a model whose versions are all removed has names that are used up.
        if let Some(v) = &version
            && let Some(index) = self.0.models.read().await.get(&id)
        {
            index.entry.check_new(&id, v)?;
        }
        // Random, not made of clock, process and counter: clocks are set back, and in a container
        // every process has the same id. Two uploads of one name would write over each other.
        let upload = UploadName::random()?;
        self.0.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(upload.clone());
        let (files, marks) = (Vec::new(), Marks::default());
        Ok(AddSession { catalog: self.clone(), id, version, upload, files, marks, committed: false })
    }

    /// The example request of a version, its bytes verified; `None` if it has none.
    pub async fn example(&self, id: &ModelId, version: &Version) -> Result<Option<Bytes>> {
        let index = self.index(id).await?;
        let Some(example) = index.entry.examples.get(version) else { return Ok(None) };
        let path = example_path(id, example);
        let changed = |found: &str| {
            let m = format!(
                "the example of model '{id}' version '{version}' was changed: the index says SHA-256 {} and {} bytes, \
                 the registry holds {found}; give it again with 'grey model add --example'",
                example.sha256, example.size
            );
            Error::new(ErrorKind::LoadFailed, m)
        };
        let got = match self.0.store.get(&path).await {
            Ok(got) if got.meta.size != example.size => return Err(changed(&format!("{} bytes", got.meta.size))),
            Ok(got) => got.bytes().await.map_err(|e| store_error("read", &path, &e))?,
            Err(object_store::Error::NotFound { .. }) => return Err(changed("none")),
            Err(e) => return Err(store_error("read", &path, &e)),
        };
        let found = Sha256Hash::of(&got);
        if found == example.sha256 { Ok(Some(got)) } else { Err(changed(&found.to_string())) }
    }

    /// Sets `marks` for a version that is there; what it has already changes nothing.
    pub async fn mark(&self, id: &ModelId, version: &Version, marks: Marks) -> Result<()> {
        let (catalog, id, version) = (self.clone(), id.clone(), version.clone());
        to_the_end(async move {
            let _writing = catalog.0.writing.lock().await;
            let index = catalog.index(&id).await?;
            // It may have been removed while this waited.
            let model = ModelRef { id: id.clone(), version: VersionChoice::Exact(version) };
            let version = &catalog.resolve(&model).await?.version;
            let action = format!("mark {version}");
            let mut entry = IndexEntry::next(Some(&index.entry), (catalog.0.now)(), action);
            let replaced = catalog.apply(&id, version, &marks, &mut entry).await?;
            catalog.write_change(&id, &index, entry, replaced).await
        })
        .await
    }

    /// Whether a version to be added, of this name if it has one yet, could get `labels`: said before its files come.
    pub async fn check_labels(&self, id: &ModelId, version: Option<&Version>, labels: &BTreeSet<Label>) -> Result<()> {
        let index = self.0.models.read().await.get(id).cloned();
        let entry = index.map_or_else(|| IndexEntry::next(None, 0, String::new()), |i| i.entry.clone());
        labels.iter().try_for_each(|label| entry.check_label(id, version, label))
    }

    /// Takes a label away. `NotFound` names those that there are.
    pub async fn unlabel(&self, id: &ModelId, label: &Label) -> Result<()> {
        let (catalog, id, label) = (self.clone(), id.clone(), label.clone());
        to_the_end(async move {
            let _writing = catalog.0.writing.lock().await;
            let index = catalog.index(&id).await?;
            if label.as_str() == Label::LATEST {
                let m =
                    "the label 'latest' cannot be taken away: requests without a version follow it; move it instead";
                return Err(Error::invalid(m));
            }
            let mut entry = IndexEntry::next(Some(&index.entry), (catalog.0.now)(), format!("unlabel {label}"));
            if entry.labels.remove(&label).is_none() {
                let there: Vec<&str> = entry.labels.keys().map(Label::as_str).collect();
                let there = there.join(", ");
                return Err(Error::not_found(format!("model '{id}' has no label '{label}'; there are {there}")));
            }
            catalog.write_change(&id, &index, entry, false).await
        })
        .await
    }

    /// Writes `entry` unless it says what `before` says; the caller holds `writing`.
    async fn write_change(&self, id: &ModelId, before: &Index, entry: IndexEntry, replaced: bool) -> Result<()> {
        if entry.labels == before.entry.labels && entry.examples == before.entry.examples {
            return Ok(());
        }
        let after = Index { entry, manifests: before.manifests.clone() };
        self.write_entry(id, &after).await?;
        if replaced {
            self.sweep(id, Some(&after)).await;
        }
        Ok(())
    }

    /// Puts `marks` of a version into an entry, and the example's bytes into the store. Returns whether another
    /// example gave way. The caller holds `writing`.
    async fn apply(&self, id: &ModelId, version: &Version, marks: &Marks, entry: &mut IndexEntry) -> Result<bool> {
        for label in &marks.labels {
            entry.check_label(id, Some(version), label)?;
            entry.labels.insert(label.clone(), version.clone());
        }
        if entry.labels.len() > LABELS_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("a model has at most {LABELS_MAX} labels")));
        }
        let Some(bytes) = &marks.example else { return Ok(false) };
        if bytes.len() > EXAMPLE_BYTES_MAX {
            let m = format!("the example has {} bytes, at most {EXAMPLE_BYTES_MAX} are kept", bytes.len());
            return Err(Error::new(ErrorKind::TooLarge, m));
        }
        let example = Example { sha256: Sha256Hash::of(bytes), size: bytes.len() as u64 };
        let path = example_path(id, &example);
        // Written over what is there: should that have been changed, this mends it.
        self.0.store.put(&path, bytes.clone().into()).await.map_err(|e| store_error("write", &path, &e))?;
        let before = entry.examples.insert(version.clone(), example);
        Ok(before.is_some_and(|b| b != example))
    }

    /// Removes a version, or all. The tombstone goes first, so that no request finds half of it.
    pub async fn remove(&self, id: &ModelId, version: Option<&Version>) -> Result<Vec<Version>> {
        let (catalog, id, version) = (self.clone(), id.clone(), version.cloned());
        to_the_end(async move { catalog.remove_now(&id, version.as_ref()).await }).await
    }

    async fn remove_now(&self, id: &ModelId, version: Option<&Version>) -> Result<Vec<Version>> {
        let _writing = self.0.writing.lock().await;
        let index = self.index(id).await?;
        let gone: Vec<Version> = match version {
            None => index.entry.versions.keys().cloned().collect(),
            Some(v) => {
                let meant = ModelRef { id: id.clone(), version: VersionChoice::Exact(v.clone()) };
                vec![self.resolve(&meant).await?.version.clone()]
            }
        };
        let names: Vec<&str> = gone.iter().map(Version::as_str).collect();
        let mut entry = IndexEntry::next(Some(&index.entry), (self.0.now)(), format!("remove {}", names.join(" ")));
        let mut manifests = index.manifests.clone();
        for v in &gone {
            entry.versions.remove(v);
            entry.removed.insert(v.clone());
            manifests.remove(v);
        }
        entry.settle_latest();
        let after = Index { entry, manifests };
        self.write_entry(id, &after).await?;
        self.sweep(id, Some(&after)).await;
        Ok(gone)
    }

    async fn read_document(&self, path: &StorePath) -> Result<Bytes> {
        let got = self.0.store.get(path).await.map_err(|e| store_error("read", path, &e))?;
        if got.meta.size > DOCUMENT_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("registry: {path} has {} bytes, at most {DOCUMENT_BYTES_MAX} are expected", got.meta.size),
            ));
        }
        got.bytes().await.map_err(|e| store_error("read", path, &e))
    }

    async fn read_index(&self, id: &ModelId) -> Result<Option<Index>> {
        let dir = model_path(id).join("index");
        let entries: Vec<_> =
            self.0.store.list(Some(&dir)).try_collect().await.map_err(|e| store_error("list", &dir, &e))?;
        let number = |p: &StorePath| p.filename()?.strip_suffix(".json")?.parse::<u64>().ok();
        let Some(newest) = entries.iter().filter_map(|m| number(&m.location)).max() else { return Ok(None) };
        let path = entry_path(id, newest);
        let entry: IndexEntry = parse(&format!("registry: {path}"), &self.read_document(&path).await?)?;
        if let Some(wrong) = entry.contradiction(newest) {
            return Err(contradicts(&path, &wrong));
        }
        let mut manifests = BTreeMap::new();
        for (version, hash) in &entry.versions {
            let path = manifest_path(id, version);
            let m: Manifest = parse(&format!("registry: {path}"), &self.read_document(&path).await?)?;
            if m.id != *id || m.version != *version || m.model_hash != *hash {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    format!(
                        "registry: {path} is not the manifest that the index means: its model_hash is {}, the index says {hash}",
                        m.model_hash
                    ),
                ));
            }
            if let Some(wrong) = m.contradiction() {
                return Err(contradicts(&path, &wrong));
            }
            manifests.insert(version.clone(), Arc::new(m));
        }
        Ok(Some(Index { entry, manifests }))
    }

    /// Makes an index entry; the caller holds `writing`.
    async fn write_entry(&self, id: &ModelId, index: &Index) -> Result<()> {
        let path = entry_path(id, index.entry.sequence);
        let made = self.create(&path, &index.entry).await;
        // An error does not say that nothing was written: the answer alone may have been lost.
        if !matches!(made, Ok(true)) && !self.is_there(&path, &index.entry).await {
            made?;
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("registry: another node wrote {path} first; only one node may write to a registry"),
            ));
        }
        self.0.models.write().await.insert(id.clone(), Arc::new(index.clone()));
        Ok(())
    }

    /// Whether this very entry is in the store.
    async fn is_there(&self, path: &StorePath, entry: &IndexEntry) -> bool {
        let found = self.read_document(path).await.and_then(|text| parse::<IndexEntry>(path.as_ref(), &text));
        found.is_ok_and(|found| found == *entry)
    }

    /// Creates a document; `false` if one of this name is there.
    async fn create(&self, path: &StorePath, document: &impl serde::Serialize) -> Result<bool> {
        let text =
            serde_json::to_vec_pretty(document).map_err(|e| Error::internal(format!("cannot write {path}: {e}")))?;
        // What could not be read again must not be written.
        if text.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("registry: {path} would have {} bytes, at most {DOCUMENT_BYTES_MAX} are taken", text.len()),
            ));
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.0.store.put_opts(path, PutPayload::from(text), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(e) => Err(store_error("write", path, &e)),
        }
    }

    /// Deletes files and manifests that the index does not list. Failures are logged: what is left
    /// is invisible and is tried again at the next start.
    async fn sweep(&self, id: &ModelId, index: Option<&Index>) {
        let uploading = self.0.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let kept: HashSet<&UploadName> = index.iter().flat_map(|i| i.manifests.values()).map(|m| &m.upload).collect();
        let root = model_path(id);
        let objects: Vec<StorePath> = match self.0.store.list(Some(&root)).map_ok(|m| m.location).try_collect().await {
            Ok(all) => all,
            Err(e) => {
                tracing::warn!("{}", store_error("list", &root, &e));
                return;
            }
        };
        // Where a listed version has no file left, a document was changed: what looks like nobody's may be its.
        let files = |upload: &UploadName| objects.iter().any(|p| p.prefix_matches(&upload_path(id, upload)));
        if let Some(upload) = kept.iter().find(|upload| !files(upload)) {
            tracing::error!("registry: {} is gone; nothing of model '{id}' is swept", upload_path(id, upload));
            return;
        }
        for path in objects {
            let parts: Vec<String> = path.parts().skip(2).map(|p| p.as_ref().to_owned()).collect();
            let stale = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["files", upload, ..] => !kept.iter().copied().chain(&uploading).any(|u| u.as_str() == *upload),
                ["versions", version, "manifest.json"] => {
                    !index.is_some_and(|i| i.manifests.keys().any(|v| v.as_str() == *version))
                }
                ["examples", hash] => {
                    !index.is_some_and(|i| i.entry.examples.values().any(|e| e.sha256.to_string() == *hash))
                }
                _ => false,
            };
            if stale && let Err(e) = self.0.store.delete(&path).await {
                tracing::warn!("{}", store_error("delete", &path, &e));
            }
        }
    }
}

/// Runs a change to its end, even if whoever asked for it goes away: the store finishes a write
/// that was begun, so a change that stops beside it would not know what is registered.
async fn to_the_end<T: Send + 'static>(change: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("a change of the registry did not end: {e}"))))
}

fn contradicts(path: &StorePath, wrong: &str) -> Error {
    Error::new(ErrorKind::FailedPrecondition, format!("registry: {path} contradicts itself: {wrong}"))
}

impl IndexEntry {
    /// Whether `version` may have this label.
    fn check_label(&self, id: &ModelId, version: Option<&Version>, label: &Label) -> Result<()> {
        if version.is_some_and(|v| v.as_str() == label.as_str()) {
            return Err(Error::invalid(format!("version '{label}' cannot have its own name as a label")));
        }
        self.label_refusal(label).map_or(Ok(()), |why| {
            let m = format!("model '{id}' cannot have the label '{label}': {why}; choose another name");
            Err(Error::new(ErrorKind::AlreadyExists, m))
        })
    }

    /// Whether a version of this name may be added.
    fn check_new(&self, id: &ModelId, v: &Version) -> Result<()> {
        let refused = |m: String| Err(Error::new(ErrorKind::AlreadyExists, m));
        if self.removed.contains(v) {
            return refused(format!(
                "version '{v}' of model '{id}' was removed, and a version's name is never used again: choose another"
            ));
        }
        if self.labels.contains_key(v.as_str()) {
            return refused(format!(
                "'{v}' is a label of model '{id}', and no version can have its name: choose another"
            ));
        }
        Ok(())
    }
}

/// What is said of a version beside what it is: unlike its manifest it may change.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Labels that mean this version from now on.
    pub labels: BTreeSet<Label>,
    /// An example request, in the form of whoever reads it; it takes the place of the one before.
    pub example: Option<Bytes>,
}

impl Marks {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.example.is_none()
    }
}

/// A version on its way into the catalog. Dropped without [`AddSession::commit`] it leaves nothing
/// that anybody can see.
pub struct AddSession {
    catalog: Catalog,
    id: ModelId,
    version: Option<Version>,
    upload: UploadName,
    files: Vec<ModelFile>,
    marks: Marks,
    committed: bool,
}

impl AddSession {
    /// Streams one file in. More than `bytes_max` bytes are [`ErrorKind::TooLarge`].
    pub async fn file<S>(&mut self, path: FilePath, mut body: S, bytes_max: u64) -> Result<()>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        if self.files.iter().any(|f| f.path == path) {
            return Err(Error::invalid(format!("file '{path}' is given twice")));
        }
        if self.files.len() == FILES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("a version has at most {FILES_MAX} files")));
        }
        let name = path.as_str().rsplit('/').next().unwrap_or_default();
        if is_temporary(name) {
            let m = format!("invalid file name '{path}': names that end in '#' and digits are the local store's own");
            return Err(Error::invalid(m));
        }
        let below =
            |a: &FilePath, b: &FilePath| a.as_str().strip_prefix(b.as_str()).is_some_and(|r| r.starts_with('/'));
        if let Some(other) = self.files.iter().map(|f| &f.path).find(|f| below(f, &path) || below(&path, f)) {
            return Err(Error::invalid(format!(
                "'{path}' and '{other}' cannot both be files: one is the other's folder"
            )));
        }
        let at = file_path(&self.id, &self.upload, &path)?;
        let failed = |e: object_store::Error| store_error("write", &at, &e);
        let upload = self.catalog.0.store.put_multipart(&at).await.map_err(failed)?;
        let mut writer = WriteMultipart::new(upload);
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        let outcome = loop {
            match body.next().await {
                None => break Ok(()),
                Some(Err(e)) => break Err(e),
                Some(Ok(chunk)) => {
                    size += chunk.len() as u64;
                    if size > bytes_max {
                        let m = format!("file '{path}' is larger than the {bytes_max} bytes that an upload may have");
                        break Err(Error::new(ErrorKind::TooLarge, m));
                    }
                    hash.update(&chunk);
                    if let Err(e) = writer.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await {
                        break Err(failed(e));
                    }
                    writer.put(chunk);
                }
            }
        };
        if let Err(e) = outcome {
            if let Err(e) = writer.abort().await {
                tracing::warn!("{}", store_error("abort the upload of", &at, &e));
            }
            return Err(e);
        }
        writer.finish().await.map_err(failed)?;
        self.files.push(ModelFile { path, size, sha256: Sha256Hash(hash.finalize().into()) });
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    /// What is to be said of the version: it becomes visible with it. An add of bytes that are there says
    /// nothing: see [`Catalog::mark`].
    pub fn mark(&mut self, marks: Marks) {
        self.marks = marks;
    }

    /// The model.
    pub fn id(&self) -> &ModelId {
        &self.id
    }

    /// The files so far, in byte order of their paths.
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// The folder of the files, for [`Catalog::fetch`] before the commit.
    pub fn upload(&self) -> &UploadName {
        &self.upload
    }

    /// The hash over the files so far.
    pub fn model_hash(&self) -> Result<ModelHash> {
        ModelHash::of(self.files.iter().map(|f| (&f.path, f.sha256)))
            .ok_or_else(|| Error::invalid("a version needs at least one file"))
    }

    /// The registered version that these bytes already are: any version if none was named, else
    /// that one (and an error if it has other bytes).
    pub async fn existing(&self) -> Result<Option<Arc<Manifest>>> {
        let hash = self.model_hash()?;
        let Ok(index) = self.catalog.index(&self.id).await else { return Ok(None) };
        match &self.version {
            // The newest of equals, should an operator have given the same bytes several names.
            None => Ok(index.manifests.values().filter(|m| m.model_hash == hash).max_by_key(|m| m.created).cloned()),
            Some(v) => match index.manifests.get(v) {
                None => Ok(None),
                Some(m) if m.model_hash == hash => Ok(Some(m.clone())),
                Some(m) => Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "version '{v}' of model '{}' exists with other bytes: it has {}, these are {hash}; versions are \
                         immutable, choose another name",
                        self.id, m.model_hash
                    ),
                )),
            },
        }
    }

    /// Makes the version visible and the latest.
    pub async fn commit(self, draft: Draft) -> Result<Arc<Manifest>> {
        to_the_end(self.commit_now(draft)).await
    }

    async fn commit_now(mut self, draft: Draft) -> Result<Arc<Manifest>> {
        let catalog = self.catalog.clone();
        let _writing = catalog.0.writing.lock().await;
        // Somebody may have added the same meanwhile.
        if let Some(there) = self.existing().await? {
            return Ok(there);
        }
        let before = catalog.0.models.read().await.get(&self.id).cloned();
        let time = (catalog.0.now)();
        let mut entry = IndexEntry::next(before.as_ref().map(|i| &i.entry), time, String::new());
        let version = match self.version.clone() {
            Some(v) => {
                entry.check_new(&self.id, &v)?;
                v
            }
            None => {
                let next = entry.next_integer().ok_or_else(|| {
                    let m = format!(
                        "model '{}' has version {}, no integer is above it: name the version",
                        self.id,
                        u64::MAX
                    );
                    Error::new(ErrorKind::FailedPrecondition, m)
                })?;
                Version::new(next.to_string())?
            }
        };
        // What is listed is immutable, whatever led here.
        if entry.versions.contains_key(&version) {
            return Err(Error::internal(format!("version '{version}' of model '{}' exists", self.id)));
        }
        let manifest = Manifest {
            format: <Manifest as Document>::FORMAT,
            id: self.id.clone(),
            version: version.clone(),
            model_hash: self.model_hash()?,
            upload: self.upload.clone(),
            files: self.files.clone(),
            engine: draft.engine,
            signature: draft.signature,
            metadata: draft.metadata,
            created: time,
        };
        let path = manifest_path(&self.id, &version);
        if !catalog.create(&path, &manifest).await? {
            // Not listed by the index: an add was interrupted behind its manifest. Nobody saw it.
            catalog.0.store.delete(&path).await.map_err(|e| store_error("delete", &path, &e))?;
            if !catalog.create(&path, &manifest).await? {
                return Err(Error::internal(format!("registry: {path} was written by somebody else")));
            }
        }
        entry.action = format!("add {version}");
        entry.versions.insert(version.clone(), manifest.model_hash);
        entry.labels.insert(Label::latest(), version.clone());
        let marks = std::mem::take(&mut self.marks);
        catalog.apply(&self.id, &version, &marks, &mut entry).await?;
        let manifest = Arc::new(manifest);
        let mut manifests = before.map(|i| i.manifests.clone()).unwrap_or_default();
        manifests.insert(version, manifest.clone());
        // From here on the files may be listed: what an error leaves behind is swept at a start.
        self.committed = true;
        catalog.write_entry(&self.id, &Index { entry, manifests }).await?;
        Ok(manifest)
    }
}

impl Drop for AddSession {
    fn drop(&mut self) {
        let mut uploads = self.catalog.0.uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        uploads.remove(&self.upload);
        drop(uploads);
        if self.committed || self.files.is_empty() {
            return;
        }
        let (catalog, id, upload) = (self.catalog.clone(), self.id.clone(), self.upload.clone());
        let files = std::mem::take(&mut self.files);
        // Without a runtime (at the very end of a process) the next start sweeps.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for f in files {
                    let Ok(path) = file_path(&id, &upload, &f.path) else { continue };
                    match catalog.0.store.delete(&path).await {
                        // A sweep was quicker.
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(e) => tracing::warn!("{}", store_error("delete", &path, &e)),
                    }
                }
            });
        }
    }
}
