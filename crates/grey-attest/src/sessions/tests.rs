use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use grey_proof::{Platform, SoftwareEvidence};
use proptest::prelude::*;

use super::*;
use crate::{NodeKey, OsRandom, SoftwareAttester};

/// Some day of 2026.
const T0: u64 = 1_790_000_000;
const H: u64 = 3_600;

/// Different bytes at each call, and the same ones in each run.
struct Fixed(AtomicU64);

impl Random for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        let call = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(call.iter().cycle()).for_each(|(b, c)| *b = *c);
        Ok(())
    }
}

/// The real attester, with a count, a switch to make it fail, and a note of when it made what.
struct Observed {
    inner: SoftwareAttester,
    clock: AtomicU64,
    fails: AtomicBool,
    calls: AtomicUsize,
    made: Mutex<HashMap<[u8; 64], u64>>,
}

impl Attester for Observed {
    fn measurement(&self) -> &Measurement {
        self.inner.measurement()
    }
    fn code_sha256(&self) -> [u8; 32] {
        self.inner.code_sha256()
    }
    fn evidence(&self, binding: [u8; 64]) -> Result<Vec<u8>, AttestError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(AttestError::Evidence { platform: Platform::Software, why: "switched off".into() });
        }
        self.made.lock().insert(binding, self.clock.load(Ordering::Relaxed));
        self.inner.evidence(binding)
    }
    fn recognises(&self, binding: &[u8; 64], evidence: &[u8]) -> bool {
        self.inner.recognises(binding, evidence)
    }
}

/// A node's data folder and its clock.
struct Node {
    dir: tempfile::TempDir,
    random: Arc<Fixed>,
    attester: Arc<Observed>,
    settings: Settings,
    sessions: Sessions,
}

const CODE: [u8; 32] = [9; 32];

fn attester(folder: &Path, code: [u8; 32]) -> Arc<Observed> {
    let key = NodeKey::open(folder, &OsRandom).unwrap();
    Arc::new(Observed {
        inner: SoftwareAttester::new(key, code),
        clock: AtomicU64::new(T0),
        fails: AtomicBool::new(false),
        calls: AtomicUsize::new(0),
        made: Mutex::default(),
    })
}

impl Node {
    fn new(settings: Settings) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let random = Arc::new(Fixed(AtomicU64::new(1)));
        let attester = attester(dir.path(), CODE);
        let sessions = Sessions::open(dir.path(), attester.clone(), random.clone(), settings.clone(), T0).unwrap();
        Node { dir, random, attester, settings, sessions }
    }

    fn reopen(&mut self, now: u64) {
        self.reopen_with(self.attester.clone(), now);
    }

    fn reopen_with(&mut self, attester: Arc<Observed>, now: u64) {
        self.attester = attester;
        let (attester, random) = (self.attester.clone(), self.random.clone());
        self.sessions = Sessions::open(self.dir.path(), attester, random, self.settings.clone(), now).unwrap();
    }

    fn current(&self, now: u64) -> Arc<Session> {
        self.attester.clock.store(now, Ordering::Relaxed);
        let session = self.sessions.current(now).unwrap();
        assert!(session.covers(now), "{session:?} at {now}");
        assert!(session.not_after() - session.not_before() <= SESSION_LIFETIME_MAX_S);
        session
    }

    /// The bundle, checked as a verifier would; and when its evidence was made.
    fn bundle(&self, digest: &Digest, now: u64) -> Option<(SessionBundle, Option<u64>)> {
        self.attester.clock.store(now, Ordering::Relaxed);
        let bundle = checked(&self.sessions.bundle(digest, now).unwrap()?, digest);
        let made = self.attester.made.lock().get(&binding(digest, &bundle.evidence.nonce32)).copied();
        Some((bundle, made))
    }

    fn files(&self) -> HashSet<String> {
        let folder = self.dir.path().join("sessions");
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("sessions").join(format!("{}.cbor", hex(digest)))
    }

    fn calls(&self) -> usize {
        self.attester.calls.load(Ordering::Relaxed)
    }

    fn fail(&self, fails: bool) {
        self.attester.fails.store(fails, Ordering::Relaxed);
    }
}

/// Checks 7 to 9 as far as they are of this crate: the digest, the binding and the node's signature.
fn checked(bytes: &[u8], digest: &Digest) -> SessionBundle {
    let (bundle, manifest) = SessionBundle::parse(bytes).unwrap();
    assert_eq!(session_digest(&bundle.manifest), *digest);
    assert_eq!(bundle.evidence.platform, Platform::Software);
    assert_eq!(manifest.measurement.bytes(), manifest.code_sha256);
    let evidence = SoftwareEvidence::parse(&bundle.evidence.evidence).unwrap();
    assert!(evidence.verify());
    assert_eq!(evidence.binding, binding(digest, &bundle.evidence.nonce32));
    bundle
}

#[test]
fn the_first_is_made_when_it_is_asked_for() {
    let node = Node::new(Settings::default());
    assert!(node.files().is_empty());
    let session = node.current(T0);
    assert_eq!((session.not_before(), session.not_after()), (T0, T0 + SESSION_LIFETIME_S));
    assert_eq!(session_digest(session.manifest()), *session.digest());
    let manifest = Manifest::parse(session.manifest()).unwrap();
    assert_eq!(manifest.signing_key, session.signing_key().verifying_key().to_bytes());
    assert_eq!(manifest.measurement, *session.measurement());
    assert_eq!((manifest.code_sha256, manifest.sealing_keys), (CODE, vec![]));
    assert_eq!(node.files(), HashSet::from([format!("{}.cbor", hex(session.digest()))]));
    let secret = session.signing_key().to_bytes();
    assert!(!fs::read(node.file(session.digest())).unwrap().windows(32).any(|w| w == secret));
    assert!(!format!("{session:?}").contains(&hex(&secret)));
    assert_eq!(node.sessions.bundle(&[0; 32], T0).unwrap(), None);
    assert_eq!(node.sessions.bundle_with_nonce(&[0; 32], &[0; 8]).unwrap(), None);
}

#[test]
fn succeeded_in_the_overlap_and_at_its_boundaries() {
    let node = Node::new(Settings::default());
    let first = node.current(T0);
    let due = first.not_after() - SESSION_OVERLAP_S;
    assert_eq!(node.current(due).digest(), first.digest(), "the overlap is left in full");
    let second = node.current(due + 1);
    assert_ne!(second.digest(), first.digest());
    assert_ne!(second.signing_key().to_bytes(), first.signing_key().to_bytes());
    assert_eq!(second.not_before(), due + 1);
    for now in [due + 1, first.not_after(), first.not_after() + 1] {
        assert_eq!(node.current(now).digest(), second.digest());
        assert!(node.bundle(first.digest(), now).is_some(), "both are served");
        assert!(node.bundle(second.digest(), now).is_some());
    }
    assert!(first.covers(first.not_after()) && !first.covers(first.not_after() + 1));
}

#[test]
fn without_an_overlap_it_is_used_to_its_last_second() {
    let node = Node::new(Settings { overlap_s: 0, lifetime_s: 1, ..Settings::default() });
    let first = node.current(T0);
    assert_eq!(node.current(T0 + 1).digest(), first.digest());
    let second = node.current(T0 + 2);
    assert_ne!(second.digest(), first.digest());
    assert_eq!(second.not_before(), T0 + 2);
}

#[test]
fn the_clock_jumps_back_and_ahead() {
    let node = Node::new(Settings::default());
    let first = node.current(T0);
    let earlier = node.current(T0 - 1);
    assert_ne!(earlier.digest(), first.digest());
    assert_eq!(node.current(T0).digest(), first.digest(), "it lasts longer than the other");
    let long_ago = node.current(0);
    assert_eq!(long_ago.not_before(), 0);
    let ahead = node.current(T0 + 365 * 24 * H);
    // The clock is set right again.
    let again = node.current(T0 + 10);
    for session in [&first, &earlier, &long_ago] {
        assert!(node.bundle(session.digest(), T0 + 10).is_none(), "a year ahead they were over");
    }
    assert!(node.bundle(ahead.digest(), T0 + 10).is_some());
    assert!(node.bundle(again.digest(), T0 + 10).is_some());
    // A clock beyond what the format can say is an error and nothing else.
    assert!(matches!(node.sessions.current(u64::MAX), Err(AttestError::Format(_))));
    assert_eq!(node.current(T0 + 11).digest(), again.digest());
}

#[test]
fn a_clock_that_swings_does_not_fill_memory() {
    let node = Node::new(Settings { kept_max: 6, ..Settings::default() });
    for i in 0..40 {
        let now = if i % 2 == 0 { T0 + i * 24 * H } else { T0 - i * 24 * H };
        let session = node.current(now);
        assert!(node.bundle(session.digest(), now).is_some());
        let state = node.sessions.state.read();
        assert!(state.live.len() <= LIVE_SESSIONS_MAX && state.kept.len() <= 6);
        drop(state);
        assert!(node.files().len() <= 6);
    }
}

#[test]
fn evidence_is_renewed_over_the_same_manifest() {
    let node = Node::new(Settings::default());
    let session = node.current(T0);
    let (first, made) = node.bundle(session.digest(), T0 + EVIDENCE_RENEWAL_S - 1).unwrap();
    assert_eq!(made, Some(T0));
    let (second, made) = node.bundle(session.digest(), T0 + EVIDENCE_RENEWAL_S).unwrap();
    assert_eq!(made, Some(T0 + EVIDENCE_RENEWAL_S));
    assert_eq!(second.manifest, first.manifest);
    assert_ne!(second.evidence, first.evidence);
    // Nothing is due: the very same bytes.
    assert_eq!(node.bundle(session.digest(), T0 + EVIDENCE_RENEWAL_S + 1).unwrap().0, second);
    // The clock jumped back before its making: how old it is nobody knows.
    let (_, made) = node.bundle(session.digest(), T0 + 1).unwrap();
    assert_eq!(made, Some(T0 + 1));
    // After its end it is answered for as before.
    let late = session.not_after() + SESSION_RETENTION_S;
    assert_eq!(node.bundle(session.digest(), late).unwrap().1, Some(late));
}

#[test]
fn evidence_over_a_clients_nonce() {
    let node = Node::new(Settings::default());
    let session = node.current(T0);
    let (kept, _) = node.bundle(session.digest(), T0).unwrap();
    for length in [8, 32, 64] {
        let nonce = vec![length as u8; length];
        let bytes = node.sessions.bundle_with_nonce(session.digest(), &nonce).unwrap().unwrap();
        let bundle = checked(&bytes, session.digest());
        assert_eq!(bundle.evidence.nonce32, nonce32(&nonce));
        let again = node.sessions.bundle_with_nonce(session.digest(), &nonce).unwrap().unwrap();
        assert_eq!(again, bytes, "it may be asked for again");
    }
    assert_eq!(node.bundle(session.digest(), T0 + 1).unwrap().0, kept, "nobody else gets it");
    for length in [0, 7, 65, 1000] {
        let e = node.sessions.bundle_with_nonce(session.digest(), &vec![0; length]).unwrap_err();
        assert_eq!(e.to_string(), format!("nonce: expected 8 to 64 bytes, found {length}"));
        assert_eq!(e.kind(), grey_core::ErrorKind::InvalidArgument);
    }
}

#[test]
fn an_attester_that_fails_for_a_while() {
    let node = Node::new(Settings::default());
    let first = node.current(T0);
    node.fail(true);
    // Evidence: the old one while it is good, then the error, then new.
    let old = node.bundle(first.digest(), T0 + EVIDENCE_AGE_MAX_S).unwrap();
    assert_eq!(old.1, Some(T0));
    let e = node.sessions.bundle(first.digest(), T0 + EVIDENCE_AGE_MAX_S + 1).unwrap_err();
    assert_eq!(e.to_string(), "cannot make SOFTWARE evidence: switched off");
    assert!(node.sessions.bundle_with_nonce(first.digest(), &[1; 8]).is_err());
    // Sessions: the present one to its end, with attempts that are far between.
    let due = first.not_after() - SESSION_OVERLAP_S + 1;
    let before = node.calls();
    for now in due..due + MAKING_RETRY_S {
        assert_eq!(node.current(now).digest(), first.digest());
    }
    assert_eq!(node.calls(), before + 1);
    assert_eq!(node.current(due + MAKING_RETRY_S).digest(), first.digest());
    assert_eq!(node.calls(), before + 2);
    assert!(node.sessions.maintain(due + MAKING_RETRY_S).is_err(), "it says that evidence is old");
    assert!(node.sessions.maintain(first.not_after()).is_err());
    assert_eq!(node.current(first.not_after()).digest(), first.digest());
    assert!(node.sessions.current(first.not_after() + 1).is_err());
    assert_eq!(node.files().len(), 1);
    node.fail(false);
    let second = node.current(first.not_after() + 1);
    assert_ne!(second.digest(), first.digest());
    node.bundle(first.digest(), first.not_after() + 1).unwrap();
}

#[test]
fn sources_of_chance_that_fail_make_no_session() {
    struct Broken;
    impl Random for Broken {
        fn fill(&self, _: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::other("no entropy"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let sessions =
        Sessions::open(dir.path(), attester(dir.path(), CODE), Arc::new(Broken), Settings::default(), T0).unwrap();
    assert!(matches!(sessions.current(T0), Err(AttestError::Random(_))));
    assert_eq!(fs::read_dir(dir.path().join("sessions")).unwrap().count(), 0);
}

#[test]
fn maintenance_leaves_nothing_to_wait_for() {
    let node = Node::new(Settings::default());
    let mut now = T0;
    node.sessions.maintain(now).unwrap();
    for _ in 0..3000 {
        now += 60;
        node.attester.clock.store(now, Ordering::Relaxed);
        node.sessions.maintain(now).unwrap();
        let before = node.calls();
        let session = node.current(now);
        let (_, made) = node.bundle(session.digest(), now).unwrap();
        assert!(now - made.unwrap() <= EVIDENCE_RENEWAL_S);
        assert_eq!(node.calls(), before, "asking made nothing");
    }
    // 50 hours, a session every 11.
    assert_eq!(node.files().len(), 5);
    assert!(node.sessions.state.read().live.len() <= 2);
    node.sessions.maintain(now + 2 * SESSION_RETENTION_S).unwrap();
    assert_eq!(node.files().len(), 1, "what is over is removed");
}

#[test]
fn threads_that_ask_at_once_get_one_session() {
    for begin in [T0, T0 + SESSION_LIFETIME_S - 10] {
        let node = Node::new(Settings::default());
        let before = if begin == T0 { 0 } else { usize::from(node.current(T0).covers(T0)) };
        let (barrier, threads) = (Barrier::new(8), 8);
        let got: HashSet<Digest> = std::thread::scope(|s| {
            let ask = || {
                barrier.wait();
                (0..200).map(|_| *node.current(begin).digest()).collect::<HashSet<_>>()
            };
            let threads: Vec<_> = (0..threads).map(|_| s.spawn(ask)).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(node.calls(), before + 1, "exactly one was made");
        assert_eq!(node.files().len(), before + 1);
        assert!(got.len() <= before + 1, "in the overlap some still got the one before");
    }
}

#[test]
fn threads_that_ask_for_evidence_get_the_same() {
    let node = Node::new(Settings::default());
    let session = node.current(T0);
    let barrier = Barrier::new(8);
    let got: HashSet<Vec<u8>> = std::thread::scope(|s| {
        let ask = || {
            barrier.wait();
            node.sessions.bundle(session.digest(), T0 + EVIDENCE_RENEWAL_S).unwrap().unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| s.spawn(ask)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!((got.len(), node.calls()), (1, 2));
}

#[test]
fn a_proof_outlives_the_process() {
    let mut node = Node::new(Settings::default());
    let session = node.current(T0);
    let digest = *session.digest();
    node.reopen(T0 + 60);
    let (bundle, made) = node.bundle(&digest, T0 + 60).unwrap();
    assert_eq!(bundle.manifest, session.manifest());
    assert_eq!(made, Some(T0 + 60), "how old the stored evidence is nobody knows");
    let bytes = node.sessions.bundle_with_nonce(&digest, b"a client's nonce").unwrap().unwrap();
    assert_eq!(checked(&bytes, &digest).evidence.nonce32, nonce32(b"a client's nonce"));
    assert_ne!(*node.current(T0 + 60).digest(), digest, "its key is gone");
    assert_eq!(node.files().len(), 2);
    let last = session.not_after() + SESSION_RETENTION_S;
    node.reopen(last);
    assert!(node.bundle(&digest, last).is_some());
    node.reopen(last + 1);
    assert!(node.bundle(&digest, last + 1).is_none());
    assert!(!node.file(&digest).exists());
    assert_eq!(node.files().len(), 1);
}

#[test]
fn other_code_says_nothing_new_of_a_session() {
    let mut node = Node::new(Settings::default());
    let digest = *node.current(T0).digest();
    let stored = fs::read(node.file(&digest)).unwrap();
    let other = attester(node.dir.path(), [8; 32]);
    node.reopen_with(other, T0 + 10_000);
    assert_eq!(node.sessions.bundle(&digest, T0 + 10_000).unwrap(), Some(stored.clone()));
    let e = node.sessions.bundle_with_nonce(&digest, &[1; 8]).unwrap_err();
    assert!(e.to_string().contains(&hex(&digest)) && e.to_string().contains("other code"), "{e}");
    assert_eq!(e.kind(), grey_core::ErrorKind::FailedPrecondition);
    assert_eq!(node.calls(), 0);
    // The same build again may.
    let same = attester(node.dir.path(), CODE);
    node.reopen_with(same, T0 + 10_000);
    assert!(node.sessions.bundle_with_nonce(&digest, &[1; 8]).unwrap().is_some());
}

#[test]
fn a_session_of_another_key_is_not_vouched_for() {
    let other = Node::new(Settings::default());
    let digest = *other.current(T0).digest();
    let stored = fs::read(other.file(&digest)).unwrap();
    let mut node = Node::new(Settings::default());
    fs::write(node.file(&digest), &stored).unwrap();
    node.reopen(T0);
    assert_eq!(node.sessions.bundle(&digest, T0 + 1000).unwrap(), Some(stored));
    let e = node.sessions.bundle_with_nonce(&digest, &[1; 8]).unwrap_err().to_string();
    assert!(e.contains("not known to be by this node"), "{e}");
    assert_eq!(node.calls(), 0);
}

#[test]
fn an_attester_that_cannot_tell_vouches_for_no_file() {
    struct Blind(Arc<Observed>);
    impl Attester for Blind {
        fn measurement(&self) -> &Measurement {
            self.0.measurement()
        }
        fn code_sha256(&self) -> [u8; 32] {
            self.0.code_sha256()
        }
        fn evidence(&self, binding: [u8; 64]) -> Result<Vec<u8>, AttestError> {
            self.0.evidence(binding)
        }
    }
    let node = Node::new(Settings::default());
    let digest = *node.current(T0).digest();
    let blind = Arc::new(Blind(node.attester.clone()));
    let sessions = Sessions::open(node.dir.path(), blind, node.random.clone(), Settings::default(), T0).unwrap();
    assert!(matches!(sessions.bundle_with_nonce(&digest, &[1; 8]), Err(AttestError::NotRenewable { .. })));
    assert!(sessions.bundle(&digest, T0 + 1000).unwrap().is_some());
    let own = sessions.current(T0).unwrap();
    assert!(sessions.bundle_with_nonce(own.digest(), &[1; 8]).unwrap().is_some());
}

#[test]
fn files_that_are_of_no_use_are_left_alone() {
    let mut node = Node::new(Settings::default());
    let (digest, other) = (*node.current(T0).digest(), *node.current(T0 - 24 * H).digest());
    let folder = node.dir.path().join("sessions");
    let good = fs::read(node.file(&digest)).unwrap();
    // Another session under this name; a name that is none; cut, empty, oversized; a folder, a link.
    fs::copy(node.file(&digest), node.file(&other)).unwrap();
    fs::write(folder.join("notes.txt"), "x").unwrap();
    fs::write(node.file(&[1; 32]), &good[..good.len() - 1]).unwrap();
    fs::write(node.file(&[2; 32]), "").unwrap();
    fs::File::create(node.file(&[3; 32])).unwrap().set_len(5 << 20).unwrap();
    fs::create_dir(node.file(&[4; 32])).unwrap();
    std::os::unix::fs::symlink(node.file(&digest), node.file(&[5; 32])).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, node.file(&[6; 32]), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    // A manifest of somebody's own under this node's evidence for another session.
    let (mut forged, mut manifest) = SessionBundle::parse(&good).unwrap();
    manifest.signing_key = [7; 32];
    forged.manifest = manifest.encode().unwrap();
    let forged_digest = session_digest(&forged.manifest);
    fs::write(node.file(&forged_digest), forged.encode().unwrap()).unwrap();
    // Written by half when the node ended.
    let half = folder.join(format!("{}.cbor.new", hex(&[7; 32])));
    fs::write(&half, &good[..10]).unwrap();
    let files = node.files().len();

    node.reopen(T0);
    assert!(!half.exists());
    assert_eq!(node.files().len(), files - 1);
    assert!(node.bundle(&digest, T0).is_some());
    assert_eq!(node.sessions.state.read().kept.len(), 1);
    for unknown in [other, [1; 32], [2; 32], [3; 32], [4; 32], [5; 32], [6; 32], forged_digest] {
        assert_eq!(node.sessions.bundle(&unknown, T0).unwrap(), None);
    }
}

#[test]
fn at_most_so_many_are_kept() {
    let settings = Settings { kept_max: 5, ..Settings::default() };
    let mut node = Node::new(settings);
    let mut made = Vec::new();
    for i in 0..9 {
        let now = T0 + i;
        node.reopen(now);
        made.push(*node.current(now).digest());
    }
    assert_eq!(node.files(), made[4..].iter().map(|d| format!("{}.cbor", hex(d))).collect());
    node.settings.kept_max = 100;
    node.reopen(T0 + 100);
    assert!(made[..4].iter().all(|d| node.bundle(d, T0 + 100).is_none()));
    assert!(made[4..].iter().all(|d| node.bundle(d, T0 + 100).is_some()));
    // A smaller number the next time.
    node.settings.kept_max = LIVE_SESSIONS_MAX + 1;
    node.reopen(T0 + 100);
    assert_eq!(node.files().len(), 5);
}

#[test]
fn a_disk_that_takes_nothing_does_not_stop_the_node() {
    let node = Node::new(Settings::default());
    let folder = node.dir.path().join("sessions");
    // No folder: writing fails for every user alike.
    fs::remove_dir(&folder).unwrap();
    let session = node.current(T0);
    assert!(node.bundle(session.digest(), T0).is_some());
    fs::create_dir(&folder).unwrap();
    node.bundle(session.digest(), T0 + EVIDENCE_RENEWAL_S).unwrap();
    assert!(node.file(session.digest()).exists(), "saved with the next renewal");
}

#[test]
fn settings_out_of_range_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |settings| {
        let random = Arc::new(Fixed(AtomicU64::new(1)));
        Sessions::open(dir.path(), attester(dir.path(), CODE), random, settings, T0).map(drop)
    };
    let d = Settings::default;
    open(d()).unwrap();
    open(Settings { lifetime_s: 86_400, overlap_s: 86_399, evidence_renewal_s: 600, kept_max: 5 }).unwrap();
    for (bad, text) in [
        (Settings { lifetime_s: 0, ..d() }, "lifetime_s: expected 1 to 86400, found 0"),
        (Settings { lifetime_s: 86_401, ..d() }, "lifetime_s: expected 1 to 86400, found 86401"),
        (Settings { overlap_s: 43_200, ..d() }, "overlap_s: expected 0 to 43199, found 43200"),
        (Settings { evidence_renewal_s: 0, ..d() }, "evidence_renewal_s: expected 1 to 600, found 0"),
        (Settings { evidence_renewal_s: 601, ..d() }, "evidence_renewal_s: expected 1 to 600, found 601"),
        (Settings { kept_max: 4, ..d() }, "kept_max: expected 5 to"),
    ] {
        let e = open(bad).unwrap_err().to_string();
        assert!(e.starts_with(text), "{e}");
    }
    fs::remove_dir(dir.path().join("sessions")).unwrap();
    fs::write(dir.path().join("sessions"), "").unwrap();
    assert!(open(d()).unwrap_err().to_string().starts_with("cannot list"));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ahead(u64),
    Back(u64),
    Ask,
    Evidence(usize),
    Nonce(usize),
    Maintain,
    Fail(bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let span =
        || prop_oneof![0..5u64, 0..2 * EVIDENCE_AGE_MAX_S, 0..3 * SESSION_LIFETIME_S, 0..3 * SESSION_RETENTION_S];
    let step = prop_oneof![
        4 => span().prop_map(Step::Ahead),
        2 => span().prop_map(Step::Back),
        4 => Just(Step::Ask),
        3 => any::<usize>().prop_map(Step::Evidence),
        1 => any::<usize>().prop_map(Step::Nonce),
        1 => Just(Step::Maintain),
        1 => any::<bool>().prop_map(Step::Fail),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever the clock, the attester and the process do: what can be signed with covers the time and
    /// lasts no longer than allowed, it can be asked for at once, and no evidence is older than allowed.
    #[test]
    fn holds_under_any_clock(
        steps in steps(),
        lifetime_s in 1..=SESSION_LIFETIME_MAX_S,
        overlap in 0..100u64,
        evidence_renewal_s in 1..=EVIDENCE_AGE_MAX_S,
    ) {
        let overlap_s = (lifetime_s - 1) * overlap / 100;
        let mut node = Node::new(Settings { lifetime_s, overlap_s, evidence_renewal_s, kept_max: 8 });
        let (mut now, mut failing, mut ever_failed, mut seen) = (T0, false, false, vec![[0; 32]]);
        for step in steps {
            node.attester.clock.store(now, Ordering::Relaxed);
            match step {
                Step::Ahead(s) => now = now.saturating_add(s),
                Step::Back(s) => now = now.saturating_sub(s),
                Step::Ask => match node.sessions.current(now) {
                    Ok(session) => {
                        prop_assert!(session.covers(now));
                        prop_assert_eq!(session.not_after() - session.not_before(), lifetime_s);
                        // After a failure the next attempt may still be some seconds away.
                        prop_assert!(ever_failed || session.not_after() - now >= overlap_s);
                        prop_assert!(node.sessions.kept(session.digest()).is_some());
                        seen.push(*session.digest());
                    }
                    Err(_) => prop_assert!(failing),
                },
                Step::Evidence(i) => {
                    let digest = seen[i % seen.len()];
                    match node.sessions.bundle(&digest, now) {
                        Ok(None) => {}
                        Ok(Some(bytes)) => {
                            let bundle = checked(&bytes, &digest);
                            let made = node.attester.made.lock()[&binding(&digest, &bundle.evidence.nonce32)];
                            prop_assert!(made <= now && now - made <= EVIDENCE_AGE_MAX_S);
                        }
                        Err(_) => prop_assert!(failing),
                    }
                }
                Step::Nonce(i) => {
                    let (digest, nonce) = (seen[i % seen.len()], i.to_le_bytes());
                    match node.sessions.bundle_with_nonce(&digest, &nonce) {
                        Ok(None) => {}
                        Ok(Some(bytes)) => prop_assert_eq!(checked(&bytes, &digest).evidence.nonce32, nonce32(&nonce)),
                        Err(_) => prop_assert!(failing),
                    }
                }
                Step::Maintain => prop_assert!(node.sessions.maintain(now).is_ok() || failing),
                Step::Fail(f) => {
                    failing = f;
                    ever_failed |= f;
                    node.fail(f);
                }
                Step::Restart => node.reopen(now),
            }
            let state = node.sessions.state.read();
            prop_assert!(state.live.len() <= LIVE_SESSIONS_MAX && state.kept.len() <= 8);
            prop_assert!(state.live.iter().all(|s| state.kept.contains_key(s.digest())));
        }
        prop_assert!(node.files().len() <= 8);
    }
}
