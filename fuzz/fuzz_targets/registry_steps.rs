//! Any sequence of changes of a registry with two models, some given up half-way, some on the very next start, against
//! what a registry is in a few lines.
//!
//! Input: steps of three bytes: what is done, to which model and version, with which bytes.
#![no_main]

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use grey_core::{ErrorKind, ModelId, ModelRef, Result, Version, VersionChoice};
use grey_fuzz::Bytes as Input;
use grey_registry::{AddSession, Catalog, Draft, FilePath, Manifest};
use libfuzzer_sys::fuzz_target;
use object_store::{ObjectStore, memory::InMemory};

const STEPS_MAX: usize = 60;
const NAMES: [&str; 8] = ["1", "2", "3", "7", "18446744073709551615", "beta", "v1", "08"];
/// More than any change needs of the runtime to come to its end.
const YIELDS: usize = 50;

thread_local! {
    static RUNTIME: LazyCell<tokio::runtime::Runtime> = LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    });
}

/// A clock that stands still: nothing may hang on it.
fn now() -> u64 {
    1_795_000_000
}

fn version(s: &str) -> Version {
    Version::new(s).expect("a version")
}

/// What a registry of one model is.
#[derive(Default)]
struct Simple {
    live: BTreeMap<String, Vec<u8>>,
    gone: BTreeSet<String>,
    latest: Option<String>,
}

impl Simple {
    /// The versions that an addition may answer with; how it fails.
    fn add(&mut self, v: Option<&str>, data: &[u8]) -> std::result::Result<Vec<String>, ErrorKind> {
        let same: Vec<String> = self.live.iter().filter(|(_, d)| *d == data).map(|(v, _)| v.clone()).collect();
        let v = match v {
            None if !same.is_empty() => return Ok(same),
            None => {
                let used = self.live.keys().chain(&self.gone).map(|v| version(v)).filter_map(|v| v.number());
                used.max().unwrap_or(0).checked_add(1).ok_or(ErrorKind::FailedPrecondition)?.to_string()
            }
            Some(v) if self.gone.contains(v) => return Err(ErrorKind::AlreadyExists),
            Some(v) => match self.live.get(v) {
                Some(d) if d == data => return Ok(vec![v.to_owned()]),
                Some(_) => return Err(ErrorKind::AlreadyExists),
                None => v.to_owned(),
            },
        };
        self.live.insert(v.clone(), data.to_vec());
        self.latest = Some(v.clone());
        Ok(vec![v])
    }

    fn remove(&mut self, v: Option<&str>) -> Vec<String> {
        let gone: Vec<String> = self.live.keys().filter(|k| v.is_none_or(|v| v == *k)).cloned().collect();
        self.live.retain(|k, _| !gone.contains(k));
        if self.latest.as_ref().is_some_and(|l| gone.contains(l)) {
            self.latest = self.live.keys().max_by_key(|k| (version(k).number(), (*k).clone())).cloned();
        }
        self.gone.extend(gone.iter().cloned());
        gone
    }
}

async fn upload(c: &Catalog, id: &ModelId, v: Option<&str>, data: &[u8]) -> Result<AddSession> {
    let mut session = c.begin_add(id.clone(), v.map(version)).await?;
    // The last byte in a file of its own, so that both kinds of hashes are met.
    for (name, part) in [("m", &data[..1]), ("d/w", &data[1..])] {
        if !part.is_empty() {
            let part = futures_util::stream::iter([Ok(Bytes::copy_from_slice(part))]);
            session.file(FilePath::new(name)?, part, 8).await?;
        }
    }
    Ok(session)
}

async fn add(c: &Catalog, id: &ModelId, v: Option<&str>, data: &[u8]) -> Result<Arc<Manifest>> {
    let session = upload(c, id, v, data).await?;
    if let Some(there) = session.existing().await? {
        return Ok(there);
    }
    let draft = Draft { engine: "e".into(), signature: Default::default(), metadata: Default::default() };
    session.commit(draft).await
}

/// Drops a change after some polls, as when its client goes away; whether it had ended by then.
async fn given_up<T>(polls: usize, change: impl Future<Output = T>) -> bool {
    let mut change = pin!(change);
    for _ in 0..polls {
        if poll_fn(|cx| Poll::Ready(change.as_mut().poll(cx).is_ready())).await {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

async fn settle() {
    for _ in 0..YIELDS {
        tokio::task::yield_now().await;
    }
}

async fn same(c: &Catalog, id: &ModelId, simple: &Simple) {
    let index = c.index(id).await.ok();
    let live: Vec<String> = index.iter().flat_map(|i| i.manifests.keys().map(ToString::to_string)).collect();
    assert_eq!(live, simple.live.keys().cloned().collect::<Vec<_>>(), "{id}");
    assert_eq!(index.as_ref().and_then(|i| i.latest()).map(ToString::to_string), simple.latest, "{id}");
    for (v, data) in &simple.live {
        let model = ModelRef { id: id.clone(), version: VersionChoice::Exact(version(v)) };
        let m = c.resolve(&model).await.expect("listed");
        let mut found = BTreeMap::new();
        for file in &m.files {
            let mut out = Vec::new();
            c.fetch(id, &m.upload, file, &mut out).await.expect("whole");
            found.insert(file.path.as_str(), out);
        }
        let found: Vec<u8> = ["m", "d/w"].iter().filter_map(|name| found.get(name)).flatten().copied().collect();
        assert_eq!(found, *data, "{id} version {v}");
    }
}

async fn walk(mut input: Input<'_>) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut c = Catalog::open(store.clone(), now).await.expect("memory");
    let ids = ["a", "b"].map(|s| ModelId::new(s).expect("a name"));
    let mut simple = [Simple::default(), Simple::default()];
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() {
            break;
        }
        let (what, which, content) = (input.byte(), input.byte(), input.byte());
        let of = usize::from(which & 1);
        let id = &ids[of];
        let v = (which & 2 != 0).then(|| NAMES[usize::from(which >> 2) % NAMES.len()]);
        let data = &[content & 3, content >> 2 & 1][..1 + usize::from(content >> 3 & 1)];
        match what % 8 {
            0..3 => {
                let found = add(&c, id, v, data).await.map(|m| m.version.to_string());
                match (simple[of].add(v, data), found) {
                    (Ok(expected), Ok(found)) => assert!(expected.contains(&found), "{found} of {expected:?}"),
                    (Err(expected), Err(found)) => assert_eq!(found.kind(), expected, "{found}"),
                    (expected, found) => panic!("{expected:?} was expected, {found:?} found"),
                }
            }
            3 | 4 => {
                let expected = simple[of].remove(v);
                match c.remove(id, v.map(version).as_ref()).await {
                    Ok(found) => assert!(found.iter().map(ToString::to_string).eq(expected)),
                    Err(e) => assert!(expected.is_empty() && e.kind() == ErrorKind::NotFound, "{e}"),
                }
            }
            // Files that nobody commits.
            5 => drop(upload(&c, id, v, data).await),
            6 => {
                // In one go or not at all: which, the registry says.
                let before = c.index(id).await.map(|i| i.entry.sequence).unwrap_or(0);
                let ended = given_up(usize::from(content >> 4), add(&c, id, v, data)).await;
                settle().await;
                let after = c.index(id).await.map(|i| i.entry.sequence).unwrap_or(0);
                if ended || before != after {
                    let _refused = simple[of].add(v, data);
                }
            }
            _ => {
                settle().await;
                c = Catalog::open(store.clone(), now).await.expect("memory");
                assert!(c.unreadable().is_empty(), "{:?}", c.unreadable());
                // Files and manifests of what is listed, index entries, and nothing else.
                let left: Vec<_> = store.list(None).try_collect().await.expect("memory");
                let of_versions = left.iter().filter(|o| !o.location.as_ref().contains("/index/")).count();
                let live = simple.iter().flat_map(|s| s.live.values());
                assert_eq!(of_versions, live.map(|d| 1 + d.len()).sum::<usize>(), "{left:?}");
            }
        }
        for (id, simple) in ids.iter().zip(&simple) {
            same(&c, id, simple).await;
        }
    }
    settle().await;
}

fuzz_target!(|input: &[u8]| {
    RUNTIME.with(|r| r.block_on(walk(Input(input))));
});
