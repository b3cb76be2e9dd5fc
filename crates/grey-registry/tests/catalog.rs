//! One suite over every store that a catalog can live in.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use grey_core::{DType, Dim, Error, ErrorKind, Label, ModelId, ModelRef, Result, Signature, TensorSpec, Version};
use grey_registry::{Catalog, DataFolder, Draft, FilePath, Manifest, Marks};
use object_store::{ObjectStore, memory::InMemory};

fn now() -> u64 {
    1_795_000_000
}

fn id(s: &str) -> ModelId {
    ModelId::new(s).unwrap()
}

fn reference(s: &str, version: &str) -> ModelRef {
    ModelRef { id: id(s), version: version.parse().unwrap() }
}

fn draft() -> Draft {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: DType::Fp32, shape: vec![Dim::Any, Dim::Fixed(2)] };
    Draft {
        engine: "onnxruntime".into(),
        signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] },
        metadata: BTreeMap::from([("k".into(), "v".into())]),
    }
}

fn body(data: &str) -> impl futures_util::Stream<Item = Result<Bytes>> + Send + Unpin + use<> {
    let chunks: Vec<Result<Bytes>> = data.as_bytes().chunks(3).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    futures_util::stream::iter(chunks)
}

async fn add(c: &Catalog, model: &str, version: Option<&str>, data: &str) -> Result<(Arc<Manifest>, bool)> {
    let mut s = c.begin_add(id(model), version.map(|v| Version::new(v).unwrap())).await?;
    s.file(FilePath::new("m.onnx")?, body(data), 1000).await?;
    match s.existing().await? {
        Some(m) => Ok((m, true)),
        None => Ok((s.commit(draft()).await?, false)),
    }
}

async fn content(c: &Catalog, m: &Manifest) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    c.fetch(&m.id, &m.upload, &m.files[0], &mut out).await?;
    Ok(out)
}

async fn suite(store: Arc<dyn ObjectStore>) {
    let c = Catalog::open(store.clone(), now).await.unwrap();
    assert_eq!(c.resolve(&reference("a", "")).await.unwrap_err().kind(), ErrorKind::NotFound);

    // Versions count up; the same bytes are no new version; latest is the newest.
    let (one, existed) = add(&c, "a", None, "first").await.unwrap();
    assert_eq!((one.version.as_str(), existed), ("1", false));
    assert_eq!(add(&c, "a", None, "second").await.unwrap().0.version.as_str(), "2");
    let (again, existed) = add(&c, "a", None, "first").await.unwrap();
    assert_eq!((again.version.as_str(), existed), ("1", true));
    assert_eq!(c.resolve(&reference("a", "")).await.unwrap().version.as_str(), "2");
    assert_eq!(content(&c, &c.resolve(&reference("a", "1")).await.unwrap()).await.unwrap(), b"first");

    // A named version is immutable.
    add(&c, "a", Some("beta"), "third").await.unwrap();
    assert!(add(&c, "a", Some("beta"), "third").await.unwrap().1);
    let e = add(&c, "a", Some("beta"), "other").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
    assert!(e.message().contains(&one.model_hash.scheme.name().to_string()), "{e}");

    // Removal: a tombstone, latest moves, the name is gone for good.
    c.remove(&id("a"), Some(&Version::new("beta").unwrap())).await.unwrap();
    assert_eq!(c.resolve(&reference("a", "")).await.unwrap().version.as_str(), "2");
    let e = c.resolve(&reference("a", "beta")).await.unwrap_err();
    assert!(e.message().ends_with("there are versions 1, 2"), "{e}");
    assert_eq!(add(&c, "a", Some("beta"), "third").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    c.remove(&id("a"), Some(&Version::new("2").unwrap())).await.unwrap();
    assert_eq!(add(&c, "a", None, "fourth").await.unwrap().0.version.as_str(), "3", "2 is not used again");

    // What was given up leaves nothing behind, whatever it was given up for.
    let mut s = c.begin_add(id("b"), None).await.unwrap();
    s.file(FilePath::new("x").unwrap(), body("abc"), 1000).await.unwrap();
    drop(s);
    let mut s = c.begin_add(id("b"), None).await.unwrap();
    let e = s.file(FilePath::new("x").unwrap(), body("0123456789"), 9).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
    let broken = futures_util::stream::iter([Ok(Bytes::from("ab")), Err(Error::invalid("gone"))]);
    assert_eq!(s.file(FilePath::new("x").unwrap(), broken, 9).await.unwrap_err().message(), "gone");
    drop(s);
    assert_eq!(c.index(&id("b")).await.unwrap_err().kind(), ErrorKind::NotFound);

    // Many at once: each gets a version of its own.
    let many = (0..8).map(|i| {
        let c = c.clone();
        tokio::spawn(
            async move { add(&c, "c", None, &format!("number {i}")).await.unwrap().0.version.number().unwrap() },
        )
    });
    let mut versions = Vec::new();
    for one in many {
        versions.push(one.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());

    // A new catalog on the same store sees the same.
    let names = |l: Vec<(ModelId, Arc<grey_registry::Index>)>| {
        l.into_iter().map(|(id, i)| (id, i.entry.clone())).collect::<Vec<_>>()
    };
    let reopened = Catalog::open(store.clone(), now).await.unwrap();
    assert_eq!(names(reopened.list().await), names(c.list().await));
    assert_eq!(reopened.resolve(&reference("a", "3")).await.unwrap(), c.resolve(&reference("a", "3")).await.unwrap());
    assert_eq!(reopened.remove(&id("c"), None).await.unwrap().len(), 8);
    assert_eq!(reopened.index(&id("c")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn in_memory() {
    suite(Arc::new(InMemory::new())).await;
}

#[tokio::test]
async fn in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataFolder::open(dir.path()).unwrap();
    suite(data.store().unwrap()).await;
}

#[tokio::test]
async fn a_changed_byte_is_found_with_both_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataFolder::open(dir.path()).unwrap();
    let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
    let (m, _) = add(&c, "a", None, "model bytes").await.unwrap();
    let path = data.store_path().join(format!("models/{}/files/{}", m.id, m.upload)).join("m.onnx");
    std::fs::write(&path, "model Bytes").unwrap();
    let e = content(&c, &m).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::LoadFailed);
    let other = grey_registry::Sha256Hash::of(b"model Bytes").to_string();
    assert!(e.message().contains(&m.files[0].sha256.to_string()) && e.message().contains(&other), "{e}");
    std::fs::remove_file(&path).unwrap();
    assert!(content(&c, &m).await.unwrap_err().message().contains("is gone"));
}

/// An add that ended at any point leaves nothing visible, and the next start sweeps it away.
#[tokio::test]
async fn interrupted_adds_are_invisible_and_swept() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataFolder::open(dir.path()).unwrap();
    let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
    let (m, _) = add(&c, "a", None, "good").await.unwrap();
    let root = data.store_path().join("models/a");
    // Files without a manifest, a manifest that no entry lists, a model with nothing but files.
    std::fs::create_dir_all(root.join("files/dead/sub")).unwrap();
    std::fs::write(root.join("files/dead/sub/x"), "half").unwrap();
    std::fs::create_dir_all(root.join("versions/2")).unwrap();
    std::fs::write(root.join("versions/2/manifest.json"), "{\"form").unwrap();
    std::fs::create_dir_all(data.store_path().join("models/z/files/dead")).unwrap();
    std::fs::write(data.store_path().join("models/z/files/dead/x"), "half").unwrap();
    let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
    assert_eq!(c.list().await.len(), 1);
    assert!(!root.join("files/dead/sub/x").exists() && !root.join("versions/2/manifest.json").exists());
    assert_eq!(content(&c, &m).await.unwrap(), b"good");
    assert_eq!(add(&c, "a", None, "better").await.unwrap().0.version.as_str(), "2");
}

#[tokio::test]
async fn a_damaged_index_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataFolder::open(dir.path()).unwrap();
    let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
    add(&c, "a", None, "good").await.unwrap();
    let entry = data.store_path().join("models/a/index/000000000001.json");
    let text = std::fs::read_to_string(&entry).unwrap();
    for (broken, says) in [
        (text.replace("\"format\": 2", "\"format\": 9"), "has format 9"),
        (text[..text.len() / 2].to_owned(), "is not what Grey wrote"),
        (text.replace("sha256-file\"", "sha256-files\""), "is not the manifest that the index means"),
    ] {
        std::fs::write(&entry, broken).unwrap();
        let c = Catalog::open(data.store().unwrap(), now).await.unwrap();
        let e = c.index(&id("a")).await.unwrap_err();
        assert_eq!(c.begin_add(id("a"), None).await.err().unwrap().message(), e.message());
        assert!(e.message().contains(says) && e.message().contains("models/a"), "{e}");
    }
}

fn label(l: &str) -> Label {
    Label::new(l).unwrap()
}

fn marks(labels: &[&str], example: Option<&'static str>) -> Marks {
    Marks { labels: labels.iter().map(|l| label(l)).collect(), example: example.map(Bytes::from) }
}

fn v(s: &str) -> Version {
    Version::new(s).unwrap()
}

async fn marks_suite(store: Arc<dyn ObjectStore>) {
    let c = Catalog::open(store.clone(), now).await.unwrap();
    // Visible with the version, not before.
    let mut s = c.begin_add(id("m"), None).await.unwrap();
    s.file(FilePath::new("m.onnx").unwrap(), body("one"), 10).await.unwrap();
    s.mark(marks(&["stable", "eu"], Some("first")));
    assert!(c.list().await.is_empty());
    s.commit(draft()).await.unwrap();
    add(&c, "m", None, "two").await.unwrap();
    let entry = |c: Catalog| async move { c.index(&id("m")).await.unwrap().entry.clone() };
    let shown =
        |e: &grey_registry::IndexEntry| e.labels.iter().map(|(l, v)| format!("{l}={v}")).collect::<Vec<_>>().join(" ");
    assert_eq!(shown(&entry(c.clone()).await), "eu=1 latest=2 stable=1");
    assert_eq!(c.resolve(&reference("m", "stable")).await.unwrap().version, v("1"));
    assert_eq!(c.example(&id("m"), &v("1")).await.unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(c.example(&id("m"), &v("2")).await.unwrap(), None);

    // What is so already makes no entry.
    let before = entry(c.clone()).await.sequence;
    c.mark(&id("m"), &v("1"), marks(&["eu"], Some("first"))).await.unwrap();
    assert_eq!(entry(c.clone()).await.sequence, before);
    c.mark(&id("m"), &v("2"), marks(&["stable"], None)).await.unwrap();
    c.mark(&id("m"), &v("1"), marks(&["latest"], Some("second"))).await.unwrap();
    assert_eq!(shown(&entry(c.clone()).await), "eu=1 latest=1 stable=2");
    assert_eq!(c.resolve(&reference("m", "")).await.unwrap().version, v("1"));

    // The example that gave way is gone.
    let examples = object_store::path::Path::from("models/m/examples");
    let left = store.list_with_delimiter(Some(&examples)).await.unwrap().objects;
    assert_eq!(left.len(), 1);

    // A name means one thing.
    let kind = |r: Result<()>| r.unwrap_err().kind();
    assert_eq!(kind(c.mark(&id("m"), &v("9"), marks(&["x"], None)).await), ErrorKind::NotFound);
    add(&c, "m", Some("beta"), "three").await.unwrap();
    assert_eq!(kind(c.mark(&id("m"), &v("1"), marks(&["beta"], None)).await), ErrorKind::AlreadyExists);
    assert_eq!(add(&c, "m", Some("eu"), "four").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    c.remove(&id("m"), Some(&v("beta"))).await.unwrap();
    assert_eq!(kind(c.mark(&id("m"), &v("1"), marks(&["beta"], None)).await), ErrorKind::AlreadyExists);
    let early = |labels: &[&str], version: Option<&str>| {
        let (labels, version) = (marks(labels, None).labels, version.map(v));
        let c = c.clone();
        async move { c.check_labels(&id("m"), version.as_ref(), &labels).await }
    };
    assert_eq!(kind(early(&["beta"], None).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(early(&["own"], Some("own")).await), ErrorKind::InvalidArgument);
    early(&["eu", "fresh", "latest"], Some("own")).await.unwrap();
    assert_eq!(kind(c.unlabel(&id("m"), &label("latest")).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(c.unlabel(&id("m"), &label("none")).await), ErrorKind::NotFound);
    let many: Vec<String> = (0..1000).map(|n| format!("l{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(kind(c.mark(&id("m"), &v("1"), marks(&many, None)).await), ErrorKind::TooLarge);

    // Read again, and removed with the version; a label means the version to remove.
    let c = Catalog::open(store.clone(), now).await.unwrap();
    assert_eq!(shown(&entry(c.clone()).await), "eu=1 latest=2 stable=2");
    assert_eq!(c.example(&id("m"), &v("1")).await.unwrap().as_deref(), Some(&b"second"[..]));
    assert_eq!(c.remove(&id("m"), Some(&v("eu"))).await.unwrap(), [v("1")]);
    assert_eq!(shown(&entry(c.clone()).await), "latest=2 stable=2");
    assert!(store.list_with_delimiter(Some(&examples)).await.unwrap().objects.is_empty());
    c.unlabel(&id("m"), &label("stable")).await.unwrap();
    assert_eq!(shown(&entry(c.clone()).await), "latest=2");

    // A changed example is named.
    c.mark(&id("m"), &v("2"), marks(&[], Some("third"))).await.unwrap();
    let [object] = &store.list_with_delimiter(Some(&examples)).await.unwrap().objects[..] else { panic!() };
    use object_store::ObjectStoreExt as _;
    store.put(&object.location, "THIRD".into()).await.unwrap();
    let e = c.example(&id("m"), &v("2")).await.unwrap_err();
    assert!(e.message().starts_with("the example of model 'm' version '2' was changed"), "{e}");
    store.delete(&object.location).await.unwrap();
    assert!(c.example(&id("m"), &v("2")).await.unwrap_err().message().contains("holds none"));
}

#[tokio::test]
async fn labels_and_examples_in_memory() {
    marks_suite(Arc::new(InMemory::new())).await;
}

#[tokio::test]
async fn labels_and_examples_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    marks_suite(DataFolder::open(dir.path()).unwrap().store().unwrap()).await;
}
