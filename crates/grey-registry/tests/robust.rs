//! What must hold when things go wrong: processes that die, calls that are given up, clocks that
//! stand still, files and documents that somebody changed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future as _,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use grey_core::{
    DType, Dim, Error, ErrorKind, ModelId, ModelRef, Result, Signature, TensorSpec, Version, VersionChoice,
};
use grey_registry::{Catalog, DataFolder, Draft, FilePath, Manifest};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, memory::InMemory, path::Path as StorePath,
};
use proptest::prelude::*;

/// Set in a child process: the folder it works on.
const CHILD_FOLDER: &str = "GREY_REGISTRY_TEST_FOLDER";

/// A clock that stands still: nothing may hang on it.
fn now() -> u64 {
    1_795_000_000
}

fn id(s: &str) -> ModelId {
    ModelId::new(s).unwrap()
}

fn version(s: &str) -> Version {
    Version::new(s).unwrap()
}

fn exact(model: &str, v: &str) -> ModelRef {
    ModelRef { id: id(model), version: VersionChoice::Exact(version(v)) }
}

fn draft() -> Draft {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DType::Fp32, shape: vec![Dim::Any] };
    Draft {
        engine: "onnxruntime".into(),
        signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] },
        metadata: BTreeMap::new(),
    }
}

fn body(data: &[u8]) -> impl futures_util::Stream<Item = Result<Bytes>> + Send + Unpin + use<> {
    let chunks: Vec<Result<Bytes>> = data.chunks(64 << 10).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    futures_util::stream::iter(chunks)
}

async fn add(c: &Catalog, model: &str, v: Option<&str>, data: &[u8]) -> Result<Arc<Manifest>> {
    let mut s = c.begin_add(id(model), v.map(version)).await?;
    s.file(FilePath::new("m.onnx")?, body(data), 64 << 20).await?;
    if let Some(there) = s.existing().await? {
        return Ok(there);
    }
    s.commit(draft()).await
}

async fn content(c: &Catalog, m: &Manifest) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for file in &m.files {
        c.fetch(&m.id, &m.upload, file, &mut out).await?;
    }
    Ok(out)
}

/// Every version that is listed is whole.
async fn all_whole(c: &Catalog) {
    for (id, index) in c.list().await {
        for (v, m) in &index.manifests {
            content(c, m).await.unwrap_or_else(|e| panic!("model {id} version {v}: {e}"));
        }
    }
}

struct Folder {
    _dir: tempfile::TempDir,
    data: DataFolder,
}

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let data = DataFolder::open(dir.path()).unwrap();
        Folder { _dir: dir, data }
    }

    async fn catalog(&self) -> Result<Catalog> {
        Catalog::open(self.data.store().unwrap(), now).await
    }

    fn model(&self, name: &str) -> PathBuf {
        self.data.store_path().join("models").join(name)
    }
}

/// The counter of uploads starts anew with the process, and in a container the process id is
/// always the same: a clock that was set back must not lead to a name that is taken.
/// Why model `a` is refused; other models must not suffer.
fn unreadable(c: &Catalog) -> Option<Error> {
    c.unreadable().get(&id("a")).cloned()
}

#[tokio::test]
async fn a_restart_never_writes_over_files() {
    let f = Folder::new();
    add(&f.catalog().await.unwrap(), "a", None, b"first").await.unwrap();
    let c = f.catalog().await.unwrap();
    add(&c, "a", None, b"second").await.unwrap();
    all_whole(&c).await;
    let first = c.resolve(&exact("a", "1")).await.unwrap();
    assert_eq!(content(&c, &first).await.unwrap(), b"first");
}

#[tokio::test]
async fn there_is_no_integer_above_the_largest() {
    let c = Catalog::open(Arc::new(InMemory::new()), now).await.unwrap();
    let largest = u64::MAX.to_string();
    let first = add(&c, "a", Some(&largest), b"first").await.unwrap();
    let e = add(&c, "a", None, b"second").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::FailedPrecondition, "{e}");
    assert!(e.message().contains(&largest), "{e}");
    assert_eq!(c.resolve(&exact("a", &largest)).await.unwrap(), first, "a version is immutable");
    assert_eq!(content(&c, &first).await.unwrap(), b"first");
    add(&c, "a", Some("named"), b"second").await.unwrap();
}

/// A client that goes away drops the future that serves it, wherever that stands.
#[tokio::test]
async fn a_commit_given_up_at_any_point_is_whole_or_nothing() {
    for polls in 1..12 {
        let f = Folder::new();
        let c = f.catalog().await.unwrap();
        add(&c, "a", None, b"first").await.unwrap();
        let mut s = c.begin_add(id("a"), None).await.unwrap();
        s.file(FilePath::new("m.onnx").unwrap(), body(b"second"), 100).await.unwrap();
        let mut commit = Box::pin(s.commit(draft()));
        for _ in 0..polls {
            let done = std::future::poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            // The store works on in a thread of its own, which dropping the future does not stop.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(commit);
        tokio::time::sleep(Duration::from_millis(20)).await;
        add(&c, "a", None, b"third").await.unwrap_or_else(|e| panic!("after {polls} polls: {e}"));
        all_whole(&c).await;
        let again = f.catalog().await.unwrap();
        all_whole(&again).await;
        assert_eq!(
            again.index(&id("a")).await.unwrap().entry,
            c.index(&id("a")).await.unwrap().entry,
            "memory and store agree after {polls} polls"
        );
    }
}

#[tokio::test]
async fn a_removal_given_up_at_any_point_is_whole_or_nothing() {
    for polls in 1..12 {
        let f = Folder::new();
        let c = f.catalog().await.unwrap();
        add(&c, "a", None, b"first").await.unwrap();
        add(&c, "a", None, b"second").await.unwrap();
        let (model, v) = (id("a"), version("2"));
        let mut remove = Box::pin(c.remove(&model, Some(&v)));
        for _ in 0..polls {
            let done = std::future::poll_fn(|cx| Poll::Ready(remove.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(remove);
        tokio::time::sleep(Duration::from_millis(20)).await;
        add(&c, "a", None, b"third").await.unwrap_or_else(|e| panic!("after {polls} polls: {e}"));
        all_whole(&c).await;
        all_whole(&f.catalog().await.unwrap()).await;
    }
}

/// The version's hash is what proofs state: it must be that of the files.
#[tokio::test]
async fn a_manifest_whose_files_are_not_its_hash_is_refused() {
    let f = Folder::new();
    let m = add(&f.catalog().await.unwrap(), "a", None, b"model bytes").await.unwrap();
    let path = f.model("a").join("versions/1/manifest.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let other = grey_registry::Sha256Hash::of(b"other bytes").to_string();
    text["files"][0]["sha256"] = other.clone().into();
    std::fs::write(&path, serde_json::to_vec(&text).unwrap()).unwrap();
    std::fs::write(f.model("a").join("files").join(m.upload.as_str()).join("m.onnx"), "other bytes").unwrap();
    let e = unreadable(&f.catalog().await.unwrap()).expect("other files under the old hash");
    assert!(e.message().contains(&m.model_hash.to_string()) && e.message().contains(&other), "{e}");
}

#[tokio::test]
async fn an_index_entry_that_contradicts_itself_is_refused() {
    let f = Folder::new();
    add(&f.catalog().await.unwrap(), "a", None, b"first").await.unwrap();
    let path = f.model("a").join("index/000000000001.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let wrongs = [
        ("sequence", serde_json::json!(7)),
        ("removed", serde_json::json!(["1"])),
        ("labels", serde_json::json!({"latest": "9"})),
    ];
    for (field, wrong) in wrongs {
        let mut text = good.clone();
        text[field] = wrong;
        std::fs::write(&path, serde_json::to_vec(&text).unwrap()).unwrap();
        let e = unreadable(&f.catalog().await.unwrap()).unwrap_or_else(|| panic!("a wrong {field} was taken"));
        assert!(e.message().contains("models/a/index/000000000001.json"), "{e}");
        let c = f.catalog().await.unwrap();
        assert_eq!(c.begin_add(id("a"), None).await.err().unwrap().message(), e.message());
        add(&c, "b", None, field.as_bytes()).await.unwrap();
        assert!(f.model("a").join("versions/1/manifest.json").exists(), "what cannot be read is left as it is");
    }
}

/// What could not be read again is not written: such a model would be lost with the next start.
#[tokio::test]
async fn a_manifest_too_large_to_read_is_not_written() {
    let f = Folder::new();
    let c = f.catalog().await.unwrap();
    let mut session = c.begin_add(id("a"), None).await.unwrap();
    session.file(FilePath::new("m.onnx").unwrap(), body(b"m"), 100).await.unwrap();
    let metadata = [("k".to_owned(), "v".repeat(17 << 20))].into();
    let e = session.commit(Draft { metadata, ..draft() }).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
    assert!(c.list().await.is_empty());
    add(&f.catalog().await.unwrap(), "a", None, b"m").await.unwrap();
}

#[tokio::test]
async fn huge_and_deep_documents_are_refused() {
    let f = Folder::new();
    add(&f.catalog().await.unwrap(), "a", None, b"first").await.unwrap();
    let path = f.model("a").join("versions/1/manifest.json");
    std::fs::write(&path, "[".repeat(1 << 20)).unwrap();
    let e = unreadable(&f.catalog().await.unwrap()).unwrap();
    assert!(e.message().contains("versions/1/manifest.json is not what Grey wrote"), "{e}");
    // Sparse: it has the size, and nobody writes it.
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let e = unreadable(&f.catalog().await.unwrap()).unwrap();
    assert!(e.message().contains("has 1099511627776 bytes, at most"), "{e}");
}

/// A file that grew is not read to its end: the node holds what it reads in memory.
#[tokio::test]
async fn a_file_that_grew_is_refused_before_it_fills_the_memory() {
    let f = Folder::new();
    let c = f.catalog().await.unwrap();
    let m = add(&c, "a", None, b"small").await.unwrap();
    let path = f.model("a").join("files").join(m.upload.as_str()).join("m.onnx");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 20).unwrap();
    let mut out = Vec::new();
    let e = c.fetch(&m.id, &m.upload, &m.files[0], &mut out).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::LoadFailed);
    assert!(e.message().contains("5 bytes") && e.message().contains("67108864 bytes"), "{e}");
    assert!(out.len() <= 5, "{} bytes were written", out.len());
}

/// An engine opens the files of a version by the names that the model gives them.
#[tokio::test]
async fn files_lie_under_their_own_names() {
    let f = Folder::new();
    let c = f.catalog().await.unwrap();
    let mut s = c.begin_add(id("a"), None).await.unwrap();
    for name in ["m.onnx", "w[0].bin", "sub~1/é %20.bin"] {
        s.file(FilePath::new(name).unwrap(), body(name.as_bytes()), 100).await.unwrap();
    }
    let m = s.commit(draft()).await.unwrap();
    all_whole(&f.catalog().await.unwrap()).await;
    let folder = f.data.store_path().join(format!("models/{}/files/{}", m.id, m.upload));
    for name in ["m.onnx", "w[0].bin", "sub~1/é %20.bin"] {
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), name.as_bytes(), "{name}");
    }
    c.remove(&id("a"), None).await.unwrap();
    assert!(!folder.exists());
}

/// A name that the local store keeps for its own temporary files is refused, not lost.
#[tokio::test]
async fn a_name_that_no_store_keeps_is_refused() {
    let f = Folder::new();
    let c = f.catalog().await.unwrap();
    let mut s = c.begin_add(id("a"), None).await.unwrap();
    s.file(FilePath::new("w").unwrap(), body(b"x"), 100).await.unwrap();
    let below = s.file(FilePath::new("w/x").unwrap(), body(b"y"), 100).await.unwrap_err();
    assert_eq!(below.kind(), ErrorKind::InvalidArgument, "{below}");
    assert!(below.message().contains("'w/x'"), "{below}");
    for temporary in ["x#1", "sub/a#b#22"] {
        let e = s.file(FilePath::new(temporary).unwrap(), body(b"z"), 100).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    }
    for good in ["x#", "x#1a", "#/1"] {
        s.file(FilePath::new(good).unwrap(), body(b"z"), 100).await.unwrap();
    }
    s.commit(draft()).await.unwrap();
    drop(c);
    // The sweep of a start takes none of them for a leftover.
    all_whole(&f.catalog().await.unwrap()).await;
    let Folder { _dir: dir, data } = f;
    drop(data);
    let f = Folder { data: DataFolder::open(dir.path()).unwrap(), _dir: dir };
    all_whole(&f.catalog().await.unwrap()).await;
}

/// Does what it is told and then fails to say so, for index entries, when `lost` is set: a write
/// whose answer the network lost.
#[derive(Debug)]
struct LosesAnswers {
    inner: InMemory,
    lost: AtomicBool,
}

impl fmt::Display for LosesAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LosesAnswers")
    }
}

#[async_trait::async_trait]
impl ObjectStore for LosesAnswers {
    async fn put_opts(&self, to: &StorePath, data: PutPayload, o: PutOptions) -> object_store::Result<PutResult> {
        let done = self.inner.put_opts(to, data, o).await?;
        if to.as_ref().contains("/index/") && self.lost.load(Ordering::Relaxed) {
            return Err(object_store::Error::Generic { store: "test", source: "the answer was lost".into() });
        }
        Ok(done)
    }
    async fn put_multipart_opts(
        &self,
        to: &StorePath,
        o: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, o).await
    }
    async fn get_opts(&self, from: &StorePath, o: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(from, o).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<StorePath>>,
    ) -> BoxStream<'static, object_store::Result<StorePath>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &StorePath, to: &StorePath, o: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, o).await
    }
}

#[tokio::test]
async fn a_lost_answer_loses_no_version() {
    let store = Arc::new(LosesAnswers { inner: InMemory::new(), lost: AtomicBool::new(true) });
    let c = Catalog::open(store.clone(), now).await.unwrap();
    assert_eq!(add(&c, "a", None, b"first").await.unwrap().version, version("1"));
    assert_eq!(add(&c, "a", None, b"second").await.unwrap().version, version("2"));
    assert_eq!(c.remove(&id("a"), Some(&version("1"))).await.unwrap(), [version("1")]);
    store.lost.store(false, Ordering::Relaxed);
    add(&c, "a", None, b"third").await.unwrap();
    let again = Catalog::open(store, now).await.unwrap();
    all_whole(&again).await;
    assert_eq!(again.index(&id("a")).await.unwrap().entry, c.index(&id("a")).await.unwrap().entry);
}

/// Before its bytes are sent, also when the model has no version left.
#[tokio::test]
async fn a_used_up_name_is_refused_at_once() {
    let c = Catalog::open(Arc::new(InMemory::new()), now).await.unwrap();
    add(&c, "a", Some("beta"), b"first").await.unwrap();
    c.remove(&id("a"), None).await.unwrap();
    let e = c.begin_add(id("a"), Some(version("beta"))).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
    assert_eq!(add(&c, "a", None, b"first").await.unwrap().version, version("1"));
}

/// Files in `dir` and below.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

/// In a child that is told a folder: adds versions until it is killed, and says which are registered.
#[test]
fn child_adds_until_killed() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let data = DataFolder::open(Path::new(&folder)).unwrap();
        let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
        for i in 0u64.. {
            let bytes: Vec<u8> =
                (0..200_000u64).flat_map(|b| (b ^ i ^ u64::from(std::process::id())).to_le_bytes()).collect();
            let m = add(&c, "a", None, &bytes).await.unwrap();
            println!("registered {}", m.version);
        }
    });
}

/// Ends the child with the test, also with one that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A process that is killed while it adds leaves what it said to be registered, and nothing half.
#[tokio::test]
async fn kill_9_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = BTreeSet::new();
    for round in 0..8u64 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_adds_until_killed", "--nocapture"])
            .env(CHILD_FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut after = 1 + round % 3;
        while after > 0 {
            // The harness may print its own words in front of ours.
            if let Some((_, v)) = lines.next().unwrap().unwrap().split_once("registered ") {
                said.insert(version(v));
                after -= 1;
            }
        }
        let second = DataFolder::open(dir.path()).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::FailedPrecondition);
        assert!(second.message().contains(&format!("(process {})", child.0.id())), "{second}");
        // Another place in the next add each time.
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        drop(child);
        said.extend(lines.filter_map(|l| l.unwrap().split_once("registered ").map(|(_, v)| version(v))));

        let data = DataFolder::open(dir.path()).unwrap();
        let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
        all_whole(&c).await;
        let index = c.index(&id("a")).await.unwrap();
        assert!(said.iter().all(|v| index.manifests.contains_key(v)), "{said:?} were registered");
        let m = add(&c, "a", None, &round.to_le_bytes()).await.unwrap();
        said.insert(m.version.clone());
        // Nothing but the files and manifests of the versions, and the index, is left.
        let index = c.index(&id("a")).await.unwrap();
        let versions = index.manifests.len();
        let below = |part: &str| files_below(&data.store_path().join("models/a").join(part)).len();
        assert_eq!((below("files"), below("versions")), (versions, versions));
    }
}

#[test]
fn a_folder_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let e = DataFolder::open(&file.join("data")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::FailedPrecondition);
    assert!(e.message().contains("cannot make the data folder") && e.message().contains("file/data"), "{e}");
}

/// A node that was killed, or a machine that lost power, as it made the folder.
#[test]
fn a_folder_that_was_half_made_is_made() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("format"), "").unwrap();
    DataFolder::open(dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "1\n");
}

/// A newer Grey may keep what this one takes for leftovers.
#[test]
fn a_newer_folder_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("registry")).unwrap();
    std::fs::write(dir.path().join("format"), "2\n").unwrap();
    let file = dir.path().join("registry/x#1");
    std::fs::write(&file, "theirs").unwrap();
    assert!(DataFolder::open(dir.path()).unwrap_err().message().contains("has format '2'"));
    assert!(file.exists());
}

#[derive(Clone, Debug)]
enum Step {
    Add(Option<&'static str>, u8),
    Remove(Option<&'static str>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let name = prop::option::of(prop::sample::select(vec!["1", "2", "3", "7", "beta", "v1"]));
    prop_oneof![
        5 => (name.clone(), 0u8..4).prop_map(|(v, data)| Step::Add(v, data)),
        3 => name.prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

/// What a registry of one model is, in a few lines.
#[derive(Default)]
struct Simple {
    live: BTreeMap<String, u8>,
    gone: BTreeSet<String>,
    latest: Option<String>,
}

impl Simple {
    fn add(&mut self, v: Option<&str>, data: u8) -> Option<Vec<String>> {
        let same: Vec<String> = self.live.iter().filter(|(_, d)| **d == data).map(|(v, _)| v.clone()).collect();
        let v = match v {
            None if !same.is_empty() => return Some(same),
            None => {
                let used = self.live.keys().chain(&self.gone).filter_map(|v| v.parse::<u64>().ok());
                (used.max().unwrap_or(0) + 1).to_string()
            }
            Some(v) if self.gone.contains(v) => return None,
            Some(v) => match self.live.get(v) {
                Some(d) => return (*d == data).then(|| vec![v.to_owned()]),
                None => v.to_owned(),
            },
        };
        self.live.insert(v.clone(), data);
        self.latest = Some(v.clone());
        Some(vec![v])
    }

    fn remove(&mut self, v: Option<&str>) -> Option<Vec<String>> {
        let gone: Vec<String> = self.live.keys().filter(|k| v.is_none_or(|v| v == *k)).cloned().collect();
        if gone.is_empty() {
            return None;
        }
        self.live.retain(|k, _| !gone.contains(k));
        if self.latest.as_ref().is_some_and(|l| gone.contains(l)) {
            self.latest = self.live.keys().max_by_key(|k| (k.parse::<u64>().ok(), (*k).clone())).cloned();
        }
        self.gone.extend(gone.iter().cloned());
        Some(gone)
    }
}

async fn walk(store: Arc<dyn ObjectStore>, steps: Vec<Step>) {
    let mut c = Catalog::open(store.clone(), now).await.unwrap();
    let mut simple = Simple::default();
    for step in steps {
        match &step {
            Step::Add(v, data) => {
                let found = add(&c, "a", *v, &[*data]).await.map(|m| m.version.to_string());
                match simple.add(*v, *data) {
                    Some(expected) => {
                        assert!(expected.contains(found.as_ref().unwrap()), "{step:?} {found:?} {expected:?}")
                    }
                    None => assert_eq!(found.unwrap_err().kind(), ErrorKind::AlreadyExists, "{step:?}"),
                }
            }
            Step::Remove(v) => {
                let found = c.remove(&id("a"), v.map(version).as_ref()).await;
                match simple.remove(*v) {
                    Some(expected) => {
                        let found: Vec<String> = found.unwrap().iter().map(ToString::to_string).collect();
                        assert_eq!(found, expected, "{step:?}");
                    }
                    None => assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound, "{step:?}"),
                }
            }
            Step::Reopen => c = Catalog::open(store.clone(), now).await.unwrap(),
        }
        let index = c.index(&id("a")).await.ok();
        let live: Vec<String> = index.iter().flat_map(|i| i.manifests.keys().map(ToString::to_string)).collect();
        assert_eq!(live, simple.live.keys().cloned().collect::<Vec<_>>(), "{step:?}");
        assert_eq!(index.as_ref().and_then(|i| i.latest()).map(ToString::to_string), simple.latest, "{step:?}");
        for (v, data) in &simple.live {
            let m = c.resolve(&exact("a", v)).await.unwrap();
            assert_eq!(content(&c, &m).await.unwrap(), [*data], "{step:?} version {v}");
        }
    }
}

/// Each case makes a store and dozens of versions; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_in_memory(steps in prop::collection::vec(step(), 1..25)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(walk(Arc::new(InMemory::new()), steps));
    }

    #[test]
    fn any_sequence_in_a_folder(steps in prop::collection::vec(step(), 1..12)) {
        let f = Folder::new();
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        rt.block_on(walk(f.data.store().unwrap(), steps));
    }
}
