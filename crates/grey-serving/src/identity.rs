//! The node as verifiers know it: its keys, its sessions and their evidence.

use std::{
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use grey_attest::{
    AttestError, Attester as _, NodeKey, OsRandom, Random, Sessions, Settings, SoftwareAttester, TenantTagKey,
    code_sha256,
};
use grey_core::{Error, Result};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use crate::{ServingConfig, clock::unix_seconds, metrics::Metrics, proving::Prover};

/// How often sessions and their evidence are looked after; evidence may be ten minutes old.
const SESSIONS_EVERY: Duration = Duration::from_secs(60);

/// How a node is known to verifiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The platform of its evidence, e.g. `SOFTWARE`.
    pub platform: &'static str,
    /// Lower-case hex; for `SOFTWARE` the SHA-256 of the file that holds Grey's code.
    pub measurement: String,
    /// The key that signs `SOFTWARE` evidence, lower-case hex.
    pub node_key: String,
}

/// Opens the node's keys and sessions in its data folder.
pub(crate) fn open(config: &ServingConfig, data: &Path, metrics: &Metrics) -> Result<(Arc<Prover>, Identity)> {
    prover(config, data, metrics).map_err(|e| attest_error(&e))
}

fn prover(
    config: &ServingConfig,
    data: &Path,
    metrics: &Metrics,
) -> std::result::Result<(Arc<Prover>, Identity), AttestError> {
    let random: Arc<dyn Random> = Arc::new(OsRandom);
    let attester = SoftwareAttester::new(NodeKey::open(data, &*random)?, code_sha256()?);
    let identity = Identity {
        platform: attester.platform().name(),
        measurement: base16ct::lower::encode_string(attester.measurement().bytes()),
        node_key: base16ct::lower::encode_string(&attester.node_key()),
    };
    let tag_key = match config.tenant_tag_key {
        Some(key) => TenantTagKey::from_bytes(key),
        None => TenantTagKey::open(data, &*random)?,
    };
    let now = unix_seconds();
    let sessions = Sessions::open(data, Arc::new(attester), random.clone(), Settings::default(), now)?;
    // Made before anybody waits for it; also says now what would fail then.
    sessions.current(now)?;
    let prover = Prover::new(sessions, config.issuer.clone(), tag_key, random, metrics.proofs());
    Ok((Arc::new(prover), identity))
}

impl Prover {
    /// See [`crate::Node::session`].
    pub(crate) async fn session(self: &Arc<Self>, digest: [u8; 32], nonce: Option<Vec<u8>>) -> Result<Bytes> {
        let prover = self.clone();
        let work = move || match nonce {
            None => prover.sessions().bundle(&digest, unix_seconds()),
            Some(nonce) => prover.sessions().bundle_with_nonce(&digest, &nonce),
        };
        // The attester and the disk may take their time.
        let found = tokio::task::spawn_blocking(work).await;
        let found = found.map_err(|e| Error::internal(format!("the session was not read: {e}")))?;
        match found {
            Ok(Some(bundle)) => Ok(bundle.into()),
            Ok(None) => Err(Error::not_found("this node has no such session, or it is too long over")),
            Err(e @ (AttestError::NonceLength { .. } | AttestError::NotRenewable { .. })) => Err(attest_error(&e)),
            Err(e) => {
                // It names files of this machine.
                tracing::error!("a session cannot be shown: {e}");
                Err(Error::internal("the session cannot be shown: see the node's log"))
            }
        }
    }
}

fn attest_error(e: &AttestError) -> Error {
    Error::new(e.kind(), e.to_string())
}

/// Renews sessions for as long as the node lives.
pub(crate) async fn maintain(prover: Weak<Prover>) {
    let mut ticks = tokio::time::interval(SESSIONS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(prover) = prover.upgrade() else { return };
        let maintained = tokio::task::spawn_blocking(move || prover.sessions().maintain(unix_seconds())).await;
        match maintained {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("sessions: {e}"),
            Err(e) => tracing::error!("sessions were not looked after: {e}"),
        }
    }
}
