//! The sessions of a data folder on the disk: one session-bundle a file, never a private key.

use std::io;
use std::path::{Path, PathBuf};

use grey_proof::{BUNDLE_BYTES_MAX, Manifest, Platform, SessionBundle, SoftwareEvidence, binding, session_digest};

use crate::AttestError;
use crate::files::{HALF_WRITTEN, failed, hex, read_file, remove_if_there, replace, sync_folder_of, unhex32};

const FOLDER: &str = "sessions";
const ENDING: &str = ".cbor";
/// Most names that are looked at when the folder is opened. A node keeps far fewer; more have been put
/// there by others, and must not hold up the start.
const NAMES_MAX: usize = 16_384;
/// Bundles are for everybody.
const MODE: u32 = 0o644;

/// `sessions/` in the data folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

/// A session as it was found.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) digest: [u8; 32],
    pub(crate) bundle: SessionBundle,
    pub(crate) manifest: Manifest,
}

impl Store {
    pub(crate) fn open(data_folder: &Path) -> Result<Store, AttestError> {
        let folder = data_folder.join(FOLDER);
        match std::fs::create_dir(&folder) {
            Ok(()) => sync_folder_of(&folder).map_err(failed("sync the folder of", &folder))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed("make the folder", &folder)(e)),
        }
        Ok(Store { folder })
    }

    /// All that can be read. What cannot is left where it is and said in the log: old sessions are no
    /// reason not to start.
    pub(crate) fn read_all(&self) -> Result<Vec<Stored>, AttestError> {
        let mut found = Vec::new();
        for (seen, entry) in std::fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?.enumerate() {
            if seen == NAMES_MAX {
                tracing::warn!("{} holds more than {NAMES_MAX} files; the rest is not read", self.folder.display());
                break;
            }
            let path = entry.map_err(failed("list", &self.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.strip_suffix(HALF_WRITTEN).is_some_and(|n| digest_of(n).is_some()) {
                // The node ended while it wrote this.
                if let Err(e) = remove_if_there(&path) {
                    tracing::warn!("cannot remove {}, which was written by half: {e}", path.display());
                }
                continue;
            }
            match read(&path, &name) {
                Ok(stored) => found.push(stored),
                Err(why) => tracing::warn!("not using {}: {why}", path.display()),
            }
        }
        Ok(found)
    }

    /// Writes a session's file, whole or not at all, so that it survives the loss of power.
    pub(crate) fn save(&self, digest: &[u8; 32], bundle: &SessionBundle) -> Result<(), AttestError> {
        let path = self.path(digest);
        replace(&path, &bundle.encode()?, MODE).map_err(failed("write", &path))
    }

    /// Removes a session's file. That it stays is no harm: it is removed at a later start.
    pub(crate) fn remove(&self, digest: &[u8; 32]) {
        let path = self.path(digest);
        if let Err(e) = remove_if_there(&path) {
            tracing::warn!("cannot remove {}, whose time is over: {e}", path.display());
        }
    }

    fn path(&self, digest: &[u8; 32]) -> PathBuf {
        self.folder.join(format!("{}{ENDING}", hex(digest)))
    }
}

fn digest_of(name: &str) -> Option<[u8; 32]> {
    unhex32(name.strip_suffix(ENDING)?)
}

fn read(path: &Path, name: &str) -> Result<Stored, String> {
    let digest = digest_of(name).ok_or_else(|| format!("expected a name of 64 hex digits and {ENDING}"))?;
    let bytes = read_file(path, BUNDLE_BYTES_MAX).map_err(|e| e.to_string())?;
    let (bundle, manifest) = SessionBundle::parse(&bytes).map_err(|e| e.to_string())?;
    let found = session_digest(&bundle.manifest);
    if found != digest {
        return Err(format!("expected the session of its name, found that of {}", hex(&found)));
    }
    let (stated, evidence) = (manifest.measurement.platform(), bundle.evidence.platform);
    if stated != evidence {
        return Err(format!("expected evidence of {}, found that of {}", stated.name(), evidence.name()));
    }
    // What no verifier would take is not worth keeping. Evidence of hardware is for verifiers alone.
    if evidence == Platform::Software {
        let evidence = SoftwareEvidence::parse(&bundle.evidence.evidence).map_err(|e| e.to_string())?;
        if evidence.binding != binding(&digest, &bundle.evidence.nonce32) || !evidence.verify() {
            return Err("expected evidence over this session, found some over another or with a bad signature".into());
        }
    }
    Ok(Stored { digest, bundle, manifest })
}

#[cfg(test)]
mod tests {
    use grey_proof::{Measurement, SessionEvidence};

    use super::*;

    /// Of hardware, where nothing in the evidence tells one session from another here.
    #[test]
    fn a_session_under_another_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let platform = Platform::SevSnp;
        let manifest = Manifest {
            id: [2; 16],
            signing_key: [3; 32],
            sealing_keys: Vec::new(),
            measurement: Measurement::new(platform, [4; 48]).unwrap(),
            not_before: 1,
            not_after: 2,
            code_sha256: [5; 32],
        };
        let manifest = manifest.encode().unwrap();
        let digest = session_digest(&manifest);
        let evidence = SessionEvidence { platform, evidence: vec![0; 1184], nonce32: [6; 32] };
        let bundle = SessionBundle::new(manifest, evidence);
        store.save(&digest, &bundle).unwrap();
        store.save(&[7; 32], &bundle).unwrap();
        let path = store.path(&[7; 32]);
        let why = read(&path, &path.file_name().unwrap().to_string_lossy()).unwrap_err();
        assert_eq!(why, format!("expected the session of its name, found that of {}", hex(&digest)));
        let all = store.read_all().unwrap();
        assert_eq!(all.iter().map(|s| (s.digest, &s.bundle)).collect::<Vec<_>>(), [(digest, &bundle)]);
    }
}
