//! What lies in a registry that somebody changed: an index entry, manifests, the folder's format, names.
//!
//! Input: what is read, then its text; for an index entry its length (two bytes), the entry and a manifest.
#![no_main]

use std::{cell::LazyCell, path::Path, sync::Arc, sync::LazyLock};

use grey_core::{ErrorKind, ModelId, ModelRef, Version, VersionChoice};
use grey_fuzz::{Bytes, bounded};
use grey_registry::{Catalog, DataFolder, Draft, FilePath, Index, IndexEntry, Manifest, ModelHash};
use libfuzzer_sys::fuzz_target;
use object_store::{ObjectStore, ObjectStoreExt as _, memory::InMemory, path::Path as StorePath};

const FORMAT: u32 = 1;
/// Bytes of the format file from which on it is none that this Grey writes.
const FORMAT_BYTES_MAX: usize = 20;
const MESSAGE_BYTES_MAX: usize = 4096;

thread_local! {
    static RUNTIME: LazyCell<tokio::runtime::Runtime> = LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    });
}
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    DataFolder::open(dir.path()).expect("an empty folder");
    dir
});

fn now() -> u64 {
    1_795_000_000
}

fn check_index(id: &ModelId, index: &Index) {
    let entry = &index.entry;
    assert!(entry.format <= FORMAT);
    assert!(entry.versions.keys().eq(index.manifests.keys()));
    assert!(entry.versions.keys().all(|v| !entry.removed.contains(v)));
    assert!(entry.labels.values().all(|v| entry.versions.contains_key(v)));
    assert!(entry.examples.keys().all(|v| entry.versions.contains_key(v)));
    assert!(!entry.versions.keys().any(|v| entry.labels.contains_key(v.as_str())));
    let again: IndexEntry = serde_json::from_slice(&serde_json::to_vec(entry).expect("JSON")).expect("ours");
    assert_eq!(again, *entry);
    for (version, m) in &index.manifests {
        assert!(m.format <= FORMAT && m.id == *id && m.version == *version);
        assert!(m.files.windows(2).all(|two| two[0].path.as_str().as_bytes() < two[1].path.as_str().as_bytes()));
        assert_eq!(ModelHash::of(m.files.iter().map(|f| (&f.path, f.sha256))), Some(m.model_hash));
        assert_eq!(entry.versions.get(version), Some(&m.model_hash));
        let again: Manifest = serde_json::from_slice(&serde_json::to_vec(&**m).expect("JSON")).expect("ours");
        assert_eq!(again, **m);
        // Whatever the manifest says, the files lie below the model's.
        let upload = m.upload.as_str();
        assert!(upload.len() == 32 && upload.bytes().all(|b| b.is_ascii_hexdigit()), "{upload:?}");
    }
}

async fn documents(entry: &[u8], manifest: &[u8]) {
    let store = Arc::new(InMemory::new());
    let put = async |path: &str, data: &[u8]| {
        store.put(&StorePath::from(path), data.to_vec().into()).await.expect("memory");
    };
    put("models/m/index/000000000003.json", entry).await;
    for version in ["1", "2", "beta"] {
        put(&format!("models/m/versions/{version}/manifest.json"), manifest).await;
    }
    let catalog = Catalog::open(store.clone(), now).await.expect("a model that cannot be read harms no other");
    let id = ModelId::new("m").expect("a name");
    if let Some(e) = catalog.unreadable().get(&id) {
        assert!(matches!(e.kind(), ErrorKind::FailedPrecondition | ErrorKind::Internal), "{e:?}");
        assert!(e.message().len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", e.message().len());
        let left: Vec<_> = futures_util::TryStreamExt::try_collect(store.list(None)).await.expect("memory");
        assert_eq!(left.len(), 4, "what cannot be read is left as it is");
        return;
    }
    let listed = catalog.list().await;
    for (id, index) in &listed {
        check_index(id, index);
        assert!(index.latest().is_some(), "there are versions, and one is the latest");
        for version in index.manifests.keys() {
            let model = ModelRef { id: id.clone(), version: VersionChoice::Exact(version.clone()) };
            assert_eq!(catalog.resolve(&model).await.expect("listed"), index.manifests[version]);
        }
    }
    // A second start finds the same, and so does one after the next version.
    let again = Catalog::open(store.clone(), now).await.expect("memory").list().await;
    assert_eq!(again.len(), listed.len());
    let before = listed.first().map(|(_, i)| i.entry.clone());
    let mut session = catalog.begin_add(id.clone(), None).await.expect("readable");
    let data = futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"new"))]);
    session.file(FilePath::new("m").expect("a name"), data, 100).await.expect("memory");
    if session.existing().await.expect("no version is named").is_some() {
        return;
    }
    let draft = Draft { engine: "e".into(), signature: Default::default(), metadata: Default::default() };
    match session.commit(draft).await {
        Ok(new) => {
            let after = Catalog::open(store, now).await.expect("memory");
            assert!(after.unreadable().is_empty(), "{:?}", after.unreadable());
            let after = after.index(&id).await.expect("it has a version");
            check_index(&id, &after);
            assert_eq!(after.latest(), Some(&new.version));
            let used = before.iter().flat_map(|e| e.versions.keys().chain(&e.removed));
            assert!(used.into_iter().all(|v| *v != new.version), "{} is used again", new.version);
            let n = before.map_or(0, |e| e.versions.len());
            assert_eq!(after.manifests.len(), n + 1, "no version is lost");
        }
        // No integer is left, or no entry: `u64::MAX` is in use.
        Err(e) => assert_eq!(e.kind(), ErrorKind::FailedPrecondition, "{e}"),
    }
}

fn folder(format: &[u8]) {
    std::fs::write(FOLDER.path().join("format"), format).expect("a folder");
    let opened = DataFolder::open(FOLDER.path());
    let text = String::from_utf8_lossy(format);
    // Only so much is looked at.
    let taken = format.len() < FORMAT_BYTES_MAX && matches!(text.trim(), "1" | "");
    match opened {
        Ok(_) => assert!(taken, "{text:?}"),
        Err(e) => assert!(!taken && e.message().contains("has format '") && e.message().len() < 1000, "{e}"),
    }
}

fn names(text: &str) {
    if let Ok(path) = FilePath::new(text) {
        let parts = || Path::new(path.as_str()).components();
        assert!(parts().all(|c| matches!(c, std::path::Component::Normal(_))), "{text:?}");
        assert_eq!(parts().count(), text.split('/').count(), "{text:?}");
        assert!(path.as_str() == text && text.len() <= 512 && !text.contains(['\0', '\n', '\\']));
    }
    let safe = |s: &str| {
        assert!(s.len() <= 128 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{s:?}");
        assert_eq!(StorePath::from_iter(["a", s]).as_ref(), format!("a/{s}"), "one segment, unescaped");
    };
    if let Ok(id) = ModelId::new(text) {
        safe(id.as_str());
    }
    if let Ok(v) = Version::new(text) {
        safe(v.as_str());
        assert!(v.number().is_none_or(|n| n.to_string() == text) && text != "latest");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    match input.below(4) {
        0 => folder(input.0),
        1 => {
            if let Ok(text) = std::str::from_utf8(input.0) {
                names(text);
            }
        }
        _ => {
            let len = usize::from(input.short());
            let (entry, manifest) = (input.take(len), input.0);
            RUNTIME.with(|r| {
                let runtime = LazyCell::force(r);
                // The documents are kept as bytes and as values, the manifest for each of its versions.
                bounded(entry.len() + manifest.len(), 256, || runtime.block_on(documents(entry, manifest)));
            });
        }
    }
});
