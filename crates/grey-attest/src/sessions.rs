use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use grey_proof::{
    Collateral, Manifest, Measurement, SessionBundle, SessionEvidence, SigningKey, binding, nonce32, session_digest,
};
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use crate::files::hex;
use crate::store::{Store, Stored};
use crate::{AttestError, Attester, Random};

/// Longest that a session may last, in seconds: not_after − not_before, as the format has it.
pub const SESSION_LIFETIME_MAX_S: u64 = 86_400;
/// How long a session lasts unless set otherwise, in seconds: half of what is allowed, so that a node
/// whose attester fails for hours goes on with the session it has.
pub const SESSION_LIFETIME_S: u64 = 43_200;
/// Seconds before its end at which a session is succeeded, unless set otherwise.
pub const SESSION_OVERLAP_S: u64 = 3_600;
/// Oldest evidence that is given out for a session, in seconds, as the format has it.
pub const EVIDENCE_AGE_MAX_S: u64 = 600;
/// Age at which evidence is made anew unless set otherwise, in seconds: half of what is allowed, so
/// that an attester that fails for some minutes is not noticed.
pub const EVIDENCE_RENEWAL_S: u64 = 300;
/// How long a session is answered for after its end, in seconds: 30 days, as long as verifiers take
/// SOFTWARE evidence for it.
pub const SESSION_RETENTION_S: u64 = 2_592_000;
/// Sessions that are kept unless set otherwise. Two a day for the time of retention are about 60; the
/// rest is for nodes that are started again and again.
pub const SESSIONS_KEPT_MAX: usize = 1_024;
/// Sessions whose private keys are in memory. More than two are there only when the clock jumps.
pub const LIVE_SESSIONS_MAX: usize = 4;
/// Lengths of a client's nonce, in bytes.
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
/// Seconds between attempts to make the next session while the present one still signs: a failing
/// attester must not slow down every batch of the overlap.
const MAKING_RETRY_S: u64 = 30;

type Digest = [u8; 32];

/// How long things last. [`Settings::default`] is what the constants say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// not_after − not_before of new sessions, in seconds: 1 to [`SESSION_LIFETIME_MAX_S`].
    pub lifetime_s: u64,
    /// A session with less than this left is succeeded, in seconds: below the lifetime.
    pub overlap_s: u64,
    /// Age at which evidence is made anew, in seconds: 1 to [`EVIDENCE_AGE_MAX_S`].
    pub evidence_renewal_s: u64,
    /// Sessions kept on the disk and in memory, past ones included: above [`LIVE_SESSIONS_MAX`].
    pub kept_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lifetime_s: SESSION_LIFETIME_S,
            overlap_s: SESSION_OVERLAP_S,
            evidence_renewal_s: EVIDENCE_RENEWAL_S,
            kept_max: SESSIONS_KEPT_MAX,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), AttestError> {
        let within = |name, found, range: std::ops::RangeInclusive<u64>| {
            if range.contains(&found) {
                return Ok(());
            }
            Err(AttestError::Setting { name, expected: format!("{} to {}", range.start(), range.end()), found })
        };
        within("lifetime_s", self.lifetime_s, 1..=SESSION_LIFETIME_MAX_S)?;
        within("overlap_s", self.overlap_s, 0..=self.lifetime_s.saturating_sub(1))?;
        within("evidence_renewal_s", self.evidence_renewal_s, 1..=EVIDENCE_AGE_MAX_S)?;
        within("kept_max", self.kept_max as u64, LIVE_SESSIONS_MAX as u64 + 1..=u64::MAX)
    }
}

/// A session that this process can sign with. The private key is gone when the last reference is.
pub struct Session {
    digest: Digest,
    manifest: Vec<u8>,
    key: SigningKey,
    measurement: Measurement,
    not_before: u64,
    not_after: u64,
}

impl Session {
    /// Its name: SHA-256 of the manifest.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The manifest as encoded.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The key for `grey_proof::sign_single` and `grey_proof::SignedBatchRoot::sign`.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// Platform and measurement, as claims restate them.
    pub fn measurement(&self) -> &Measurement {
        &self.measurement
    }

    /// Its first second, Unix time.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Its last second, Unix time.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Whether claims of this time may be signed with it.
    pub fn covers(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {}..={})", hex(&self.digest), self.not_before, self.not_after)
    }
}

/// The session to sign with at `now`: of those that cover it the one that lasts longest, and of equals
/// the one made last.
fn best(live: &[Arc<Session>], now: u64) -> Option<&Arc<Session>> {
    live.iter().filter(|s| s.covers(now)).max_by_key(|s| s.not_after)
}

/// Whether what happened at `since` is to happen again, at an age of `after_s`. Where it never did, or
/// the clock jumped back to before it, the age is unknown and the answer yes.
fn is_due(since: Option<u64>, now: u64, after_s: u64) -> bool {
    since.and_then(|since| now.checked_sub(since)).is_none_or(|age| age >= after_s)
}

/// What is answered for a session, whether or not this process can sign with it.
struct Kept {
    digest: Digest,
    not_after: u64,
    /// Why it gets no new evidence, if so.
    fixed: Option<&'static str>,
    /// A lock for each session, so that a slow attester holds up those who ask for that one alone.
    held: Mutex<Held>,
}

struct Held {
    bundle: SessionBundle,
    /// When its evidence was made; unknown for what was read from the disk.
    made_at: Option<u64>,
    /// Whether the disk has this bundle, or one that differs in the evidence alone.
    saved: bool,
}

#[derive(Default)]
struct State {
    /// In the order of their making; at most [`LIVE_SESSIONS_MAX`].
    live: Vec<Arc<Session>>,
    kept: HashMap<Digest, Arc<Kept>>,
}

impl State {
    /// Forgets keys whose time is over, and the sessions that need be answered for no longer or are
    /// too many; gives the latter. Whatever can sign is kept, whatever the clock says.
    fn tidy(&mut self, now: u64, kept_max: usize) -> Vec<Digest> {
        self.live.retain(|s| now <= s.not_after);
        let surplus = self.live.len().saturating_sub(LIVE_SESSIONS_MAX);
        self.live.drain(..surplus);
        let mut past: Vec<(u64, Digest)> = self
            .kept
            .values()
            .filter(|k| !self.live.iter().any(|s| s.digest == k.digest))
            .map(|k| (k.not_after, k.digest))
            .collect();
        past.sort_unstable();
        let too_many = self.kept.len().saturating_sub(kept_max);
        let over = past.iter().filter(|(end, _)| now > end.saturating_add(SESSION_RETENTION_S)).count();
        past.truncate(too_many.max(over));
        past.into_iter().map(|(_, digest)| digest).inspect(|d| drop(self.kept.remove(d))).collect()
    }
}

/// The sessions of a node: makes them, gives the one to sign with, and answers for all of them with
/// evidence that is fresh.
///
/// Time is passed in as Unix seconds and may jump. A session's file is on the disk before anybody gets
/// the session, so that a proof outlives the node's end.
pub struct Sessions {
    attester: Arc<dyn Attester>,
    random: Arc<dyn Random>,
    settings: Settings,
    store: Store,
    state: RwLock<State>,
    /// Held by the one thread that makes a session; when it last failed to while another still signed.
    making: Mutex<Option<u64>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.read();
        write!(f, "Sessions({:?}, {} kept)", state.live, state.kept.len())
    }
}

impl Sessions {
    /// Opens the sessions in `folder`, the locked data folder, and removes those that were over
    /// [`SESSION_RETENTION_S`] before `now`. Makes none yet.
    ///
    /// A session that was left by an earlier run gets new evidence only if it states this code and its
    /// stored evidence is recognised by `attester`; any other keeps the evidence it has.
    ///
    /// # Errors
    /// A setting out of range; `sessions/` can be neither made nor listed.
    pub fn open(
        folder: &Path,
        attester: Arc<dyn Attester>,
        random: Arc<dyn Random>,
        settings: Settings,
        now: u64,
    ) -> Result<Sessions, AttestError> {
        settings.check()?;
        let store = Store::open(folder)?;
        let mut state = State::default();
        for stored in store.read_all()? {
            let kept = keep(stored, &*attester);
            state.kept.insert(kept.digest, Arc::new(kept));
        }
        for digest in state.tidy(now, settings.kept_max) {
            store.remove(&digest);
        }
        Ok(Sessions { attester, random, settings, store, state: RwLock::new(state), making: Mutex::new(None) })
    }

    /// The session to sign claims of time `now` with; one that covers `now`, always.
    ///
    /// Where none does, one is made, which waits for the attester and the disk. Where the one that does
    /// has less than the overlap left, the first caller makes its successor and everybody else goes on
    /// with it meanwhile; [`Sessions::maintain`] spares callers that as well.
    ///
    /// # Errors
    /// There is no session for `now` and none can be made.
    pub fn current(&self, now: u64) -> Result<Arc<Session>, AttestError> {
        let Some(present) = self.best(now) else {
            let mut making = self.making.lock();
            // Whoever held the lock has made one, most likely.
            if let Some(made) = self.best(now) {
                return Ok(made);
            }
            let made = self.make(now)?;
            *making = None;
            return Ok(made);
        };
        if !self.needs_successor(&present, now) {
            return Ok(present);
        }
        let Some(mut failed_at) = self.making.try_lock() else { return Ok(present) };
        // It may have been made between the two looks.
        let present = self.best(now).unwrap_or(present);
        if !self.needs_successor(&present, now) || !is_due(*failed_at, now, MAKING_RETRY_S) {
            return Ok(present);
        }
        match self.make(now) {
            Ok(made) => {
                *failed_at = None;
                Ok(made)
            }
            Err(e) => {
                *failed_at = Some(now);
                tracing::warn!(
                    "cannot make the session that follows {}, which lasts {} s more: {e}; trying again in \
                     {MAKING_RETRY_S} s",
                    hex(&present.digest),
                    present.not_after.saturating_sub(now),
                );
                Ok(present)
            }
        }
    }

    /// The encoded session-bundle of a session of this node, with evidence that was made at most
    /// [`EVIDENCE_AGE_MAX_S`] before `now`; `None` for a session that is not known. For as long as it is
    /// kept, a session is answered for after its end as before. One that gets no new evidence (see
    /// [`Sessions::open`]) is given with what it has.
    ///
    /// # Errors
    /// The evidence is too old and new one cannot be made.
    pub fn bundle(&self, digest: &[u8; 32], now: u64) -> Result<Option<Vec<u8>>, AttestError> {
        let Some(kept) = self.kept(digest) else { return Ok(None) };
        let mut held = kept.held.lock();
        self.renew_if_due(&kept, &mut held, now)?;
        Ok(Some(held.bundle.encode()?))
    }

    /// The encoded session-bundle with evidence made for this call over the client's nonce; `None` for
    /// a session that is not known. Each call asks the attester, so a caller bounds their number.
    ///
    /// # Errors
    /// A nonce that is not 8 to 64 bytes long, a session that gets no new evidence
    /// ([`AttestError::NotRenewable`]), or an attester that fails.
    pub fn bundle_with_nonce(&self, digest: &[u8; 32], client_nonce: &[u8]) -> Result<Option<Vec<u8>>, AttestError> {
        if !NONCE_BYTES.contains(&client_nonce.len()) {
            return Err(AttestError::NonceLength { found: client_nonce.len() });
        }
        let Some(kept) = self.kept(digest) else { return Ok(None) };
        if let Some(why) = kept.fixed {
            return Err(AttestError::NotRenewable { digest: *digest, why });
        }
        let (evidence, collateral) = self.attest(digest, nonce32(client_nonce))?;
        // What is kept stays as it is: the next client has nothing to do with this one's nonce.
        let mut bundle = kept.held.lock().bundle.clone();
        bundle.evidence = evidence;
        bundle.collateral = collateral;
        Ok(Some(bundle.encode()?))
    }

    /// Does ahead of time what callers would wait for: makes the session that is due, renews the
    /// evidence of those that sign, and removes what is over. Called about once a minute; nothing
    /// depends on when.
    ///
    /// # Errors
    /// The first thing that failed; the others were tried.
    pub fn maintain(&self, now: u64) -> Result<(), AttestError> {
        let mut result = self.current(now).map(drop);
        let live: Vec<Digest> = self.state.read().live.iter().map(|s| s.digest).collect();
        for kept in live.iter().filter_map(|digest| self.kept(digest)) {
            let mut held = kept.held.lock();
            result = result.and(self.renew_if_due(&kept, &mut held, now));
        }
        let over = self.state.write().tidy(now, self.settings.kept_max);
        over.iter().for_each(|digest| self.store.remove(digest));
        result
    }

    fn best(&self, now: u64) -> Option<Arc<Session>> {
        best(&self.state.read().live, now).cloned()
    }

    fn kept(&self, digest: &Digest) -> Option<Arc<Kept>> {
        self.state.read().kept.get(digest).cloned()
    }

    fn needs_successor(&self, session: &Session, now: u64) -> bool {
        session.not_after.saturating_sub(now) < self.settings.overlap_s
    }

    /// A session from `now` on. Nobody gets it before it is attested and saved.
    fn make(&self, now: u64) -> Result<Arc<Session>, AttestError> {
        let mut secret = Zeroizing::new([0; 32]);
        self.fill(secret.as_mut_slice())?;
        let key = SigningKey::from_bytes(&secret);
        let mut id = [0; 16];
        self.fill(&mut id)?;
        let measurement = self.attester.measurement().clone();
        let not_after = now.saturating_add(self.settings.lifetime_s);
        let manifest = Manifest {
            id,
            signing_key: key.verifying_key().to_bytes(),
            sealing_keys: Vec::new(),
            measurement: measurement.clone(),
            not_before: now,
            not_after,
            code_sha256: self.attester.code_sha256(),
        }
        .encode()?;
        let digest = session_digest(&manifest);
        let (evidence, collateral) = self.attest(&digest, self.random_nonce()?)?;
        let mut bundle = SessionBundle::new(manifest.clone(), evidence);
        bundle.collateral = collateral;
        // Refused here rather than when somebody asks for it.
        bundle.encode()?;
        let mut held = Held { bundle, made_at: Some(now), saved: false };
        self.save(&digest, &mut held);
        let session = Arc::new(Session { digest, manifest, key, measurement, not_before: now, not_after });
        let kept = Arc::new(Kept { digest, not_after, fixed: None, held: Mutex::new(held) });
        let over = {
            let mut state = self.state.write();
            state.live.push(Arc::clone(&session));
            state.kept.insert(digest, kept);
            state.tidy(now, self.settings.kept_max)
        };
        over.iter().for_each(|digest| self.store.remove(digest));
        tracing::info!("session {} from {now} to {not_after}", hex(&digest));
        Ok(session)
    }

    fn renew_if_due(&self, kept: &Kept, held: &mut Held, now: u64) -> Result<(), AttestError> {
        if kept.fixed.is_some() || !is_due(held.made_at, now, self.settings.evidence_renewal_s) {
            return Ok(());
        }
        match self.random_nonce().and_then(|nonce| self.attest(&kept.digest, nonce)) {
            Ok((evidence, collateral)) => {
                // Evidence is written once, since any will do for what is served after a restart;
                // collateral has an end, so the newest is worth a write.
                held.saved &= held.bundle.collateral == collateral;
                held.bundle.evidence = evidence;
                held.bundle.collateral = collateral;
                held.made_at = Some(now);
                if !held.saved {
                    self.save(&kept.digest, held);
                }
                Ok(())
            }
            Err(e) if !is_due(held.made_at, now, EVIDENCE_AGE_MAX_S + 1) => {
                tracing::warn!("cannot renew the evidence of session {}, which is still good: {e}", hex(&kept.digest));
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// A disk that is full must not stop the node from proving: the session is answered for as long as
    /// the node runs, and each renewal tries again.
    fn save(&self, digest: &Digest, held: &mut Held) {
        match self.store.save(digest, &held.bundle) {
            Ok(()) => held.saved = true,
            Err(e) => tracing::warn!(
                "cannot save session {}: {e}; if this node is started again before it can be, its proofs cannot be \
                 bundled",
                hex(digest)
            ),
        }
    }

    fn attest(&self, digest: &Digest, nonce32: [u8; 32]) -> Result<(SessionEvidence, Option<Collateral>), AttestError> {
        let evidence = self.attester.evidence(binding(digest, &nonce32))?;
        let evidence = SessionEvidence { platform: self.attester.platform(), evidence, nonce32 };
        Ok((evidence, self.attester.collateral()?))
    }

    fn random_nonce(&self) -> Result<[u8; 32], AttestError> {
        let mut nonce = [0; 32];
        self.fill(&mut nonce)?;
        Ok(nonce)
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), AttestError> {
        self.random.fill(bytes).map_err(AttestError::Random)
    }
}

/// Decides what may be said of a session that an earlier run left.
///
/// Evidence is a statement by the code that makes it, so none is made for a manifest that states other
/// code; nor for one whose evidence is not this attester's, which anybody may have put there.
fn keep(stored: Stored, attester: &dyn Attester) -> Kept {
    let Stored { digest, bundle, manifest } = stored;
    let ours = manifest.measurement == *attester.measurement() && manifest.code_sha256 == attester.code_sha256();
    let fixed = if !ours {
        Some("it was made by other code than this node runs")
    } else if !attester.recognises(&binding(&digest, &bundle.evidence.nonce32), &bundle.evidence.evidence) {
        Some("its stored evidence is not known to be by this node")
    } else {
        None
    };
    let held = Mutex::new(Held { bundle, made_at: None, saved: true });
    Kept { digest, not_after: manifest.not_after, fixed, held }
}

#[cfg(test)]
mod tests;
