//! Profile records: what was measured of a model on this kind of machine with this runtime, kept in
//! the node's data folder so that it is measured once (proof format, §6).

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use grey_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::selftest::SelfTestRecord;

/// Format of the records that this build writes; newer ones are refused by name.
const PROFILE_FORMAT: u32 = 2;
/// Largest record read, in bytes; a real one has a few hundred.
const PROFILE_BYTES_MAX: u64 = 64 << 10;

/// What a record is valid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProfileKey {
    /// `scheme:hex` of the model.
    pub(crate) model_hash: String,
    /// SHA-256 of the runtime's main library.
    pub(crate) library_sha256: String,
    /// As configured: `auto` or a number.
    pub(crate) threads: String,
    /// ISA class or device.
    pub(crate) device: String,
    /// The option `proofs` of the load. Format 1 knew no such option and loaded as `on` does.
    #[serde(default)]
    pub(crate) proofs: ProofsOption,
    /// SHA-256 of the version's example request, on which what the record says may rest. A record without one is
    /// named as if there were no such member, and one with it is never read by a Grey that does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) example: Option<String>,
}

/// The option `proofs` of a load, which sets the engine's switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProofsOption {
    #[default]
    On,
    Off,
}

impl ProfileKey {
    fn file_name(&self) -> String {
        let proofs = match self.proofs {
            ProofsOption::On => "on",
            ProofsOption::Off => "off",
        };
        let parts = [self.model_hash.as_str(), &self.library_sha256, &self.threads, &self.device, proofs];
        let parts: Vec<&str> = parts.into_iter().chain(self.example.as_deref()).collect();
        name_of(&parts)
    }

    /// The name of the record of format 1 with the same meaning.
    fn file_name_1(&self) -> Option<String> {
        let name = || name_of(&[&self.model_hash, &self.library_sha256, &self.threads, &self.device]);
        (self.proofs == ProofsOption::On && self.example.is_none()).then(name)
    }
}

fn name_of(parts: &[&str]) -> String {
    let mut h = Sha256::new();
    for part in parts {
        h.update((part.len() as u64).to_le_bytes());
        h.update(part);
    }
    format!("{}.json", base16ct::lower::encode_string(&h.finalize()))
}

/// Whether rows of different requests may share a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowsVerdict {
    /// Whether they may.
    pub(crate) independent: bool,
    /// In words, as `model show` prints it.
    pub(crate) reason: String,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProfileRecord {
    format: u32,
    key: ProfileKey,
    /// Threads of one run.
    pub(crate) threads: u32,
    /// The probe's verdict; absent until the probe has ended.
    pub(crate) rows: Option<RowsVerdict>,
    /// What the self-test found; absent until it has ended, and in format 1.
    #[serde(default)]
    pub(crate) determinism: Option<SelfTestRecord>,
    /// Slowest run per bucket, microseconds.
    pub(crate) bucket_us: BTreeMap<u32, u64>,
    /// Private memory of a host after warm-up, bytes; 0 if not measured.
    pub(crate) memory_bytes: u64,
}

impl ProfileRecord {
    pub(crate) fn new(key: ProfileKey, threads: u32) -> Self {
        ProfileRecord {
            format: PROFILE_FORMAT,
            key,
            threads,
            rows: None,
            determinism: None,
            bucket_us: BTreeMap::new(),
            memory_bytes: 0,
        }
    }

    /// The self-test's result, if it tested these batch sizes.
    pub(crate) fn self_test_of(&self, sizes: &[u32]) -> Option<&SelfTestRecord> {
        self.determinism.as_ref().filter(|r| r.sizes == sizes)
    }
}

/// The folder of records.
#[derive(Clone, Debug)]
pub(crate) struct Profiles {
    dir: PathBuf,
}

impl Profiles {
    pub(crate) fn open(data: &Path) -> Result<Profiles> {
        let dir = data.join("profiles");
        std::fs::create_dir_all(&dir).map_err(|e| io_error("create", &dir, &e))?;
        Ok(Profiles { dir })
    }

    /// The record of `key`, also one that format 1 left under its own name. `None` if there is none,
    /// or it is unreadable (said in the log): a record is only ever a shortcut, measuring again is
    /// always right. A newer format is an error.
    pub(crate) fn read(&self, key: &ProfileKey) -> Result<Option<ProfileRecord>> {
        for name in [Some(key.file_name()), key.file_name_1()].into_iter().flatten() {
            if let Some(record) = self.read_named(&name, key)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    fn read_named(&self, name: &str, key: &ProfileKey) -> Result<Option<ProfileRecord>> {
        let path = self.dir.join(name);
        let file = match std::fs::File::open(&path) {
            Ok(f) => f,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("open", &path, &e)),
        };
        let mut text = Vec::new();
        file.take(PROFILE_BYTES_MAX).read_to_end(&mut text).map_err(|e| io_error("read", &path, &e))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        if let Ok(Format { format }) = serde_json::from_slice(&text)
            && format > PROFILE_FORMAT
        {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "profile record {} has format {format}, this Grey reads up to {PROFILE_FORMAT}: use a newer Grey, \
                     or delete the record",
                    path.display()
                ),
            ));
        }
        match serde_json::from_slice::<ProfileRecord>(&text) {
            Ok(r) if r.key == *key => Ok(Some(ProfileRecord { format: PROFILE_FORMAT, ..r })),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "profile record is for another key; measuring again");
                Ok(None)
            }
            Err(e) => {
                tracing::warn!(path = %path.display(), "profile record is unreadable, measuring again: {e}");
                Ok(None)
            }
        }
    }

    /// Writes a record in place of an older one, never leaving half of it.
    pub(crate) fn write(&self, record: &ProfileRecord) -> Result<()> {
        write_json(&self.dir.join(record.key.file_name()), record)
    }
}

/// Writes JSON beside `path` and renames it there, so that a reader sees the old or the new.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::internal(format!("cannot write {} as JSON: {e}", path.display())))?;
    let temporary = path.with_extension("json.new");
    let written = std::fs::File::create(&temporary).and_then(|mut f| {
        std::io::Write::write_all(&mut f, &text)?;
        f.sync_all()
    });
    written.and_then(|()| std::fs::rename(&temporary, path)).map_err(|e| io_error("write", path, &e))
}

pub(crate) fn io_error(what: &str, path: &Path, e: &std::io::Error) -> Error {
    Error::internal(format!("cannot {what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::Found;

    fn key(threads: &str) -> ProfileKey {
        ProfileKey {
            model_hash: "sha256-file:aa".into(),
            library_sha256: "bb".into(),
            threads: threads.into(),
            device: "amd/x86-64-v4".into(),
            proofs: ProofsOption::On,
            example: None,
        }
    }

    #[test]
    fn records_are_found_by_their_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let p = Profiles::open(dir.path()).unwrap();
        assert_eq!(p.read(&key("auto")).unwrap(), None);
        let mut r = ProfileRecord::new(key("auto"), 2);
        r.rows = Some(RowsVerdict { independent: true, reason: "probed".into() });
        r.bucket_us.insert(8, 120);
        p.write(&r).unwrap();
        assert_eq!(p.read(&key("auto")).unwrap(), Some(r));
        assert_eq!(p.read(&key("2")).unwrap(), None);
        assert_eq!(p.read(&ProfileKey { proofs: ProofsOption::Off, ..key("auto") }).unwrap(), None);
        assert_eq!(p.read(&ProfileKey { example: Some("cc".into()), ..key("auto") }).unwrap(), None);
    }

    #[test]
    fn a_self_test_counts_for_the_sizes_it_tested() {
        let mut r = ProfileRecord::new(key("auto"), 2);
        assert_eq!(r.self_test_of(&[]), None);
        r.determinism = Some(SelfTestRecord {
            found: Found::Everywhere,
            reason: "seen".into(),
            zero_rows_refused: false,
            sizes: vec![1, 2],
        });
        assert!(r.self_test_of(&[1, 2]).is_some());
        assert_eq!(r.self_test_of(&[1, 2, 4]), None);
    }

    #[test]
    fn a_torn_record_is_measured_again_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let p = Profiles::open(dir.path()).unwrap();
        p.write(&ProfileRecord::new(key("1"), 1)).unwrap();
        let path = dir.path().join("profiles").join(key("1").file_name());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(p.read(&key("1")).unwrap(), None);
        std::fs::write(&path, text.replace("\"format\": 2", "\"format\": 3")).unwrap();
        let e = p.read(&key("1")).unwrap_err();
        assert!(e.message().contains("has format 3, this Grey reads up to 2"), "{e}");
    }

    /// A record as format 1 wrote it, under the name that it gave it, stands for `proofs: on` and goes
    /// on as format 2.
    #[test]
    fn format_1_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let p = Profiles::open(dir.path()).unwrap();
        let old = dir.path().join("profiles/4383b7578e8ab0b68bc3ee19cdf91031655539a67d4f792f3f3163e6b63bbd10.json");
        let text = include_str!("../tests/fixtures/profile-format-1.json");
        std::fs::write(&old, text).unwrap();
        let r = p.read(&key("auto")).unwrap().unwrap();
        assert_eq!((r.format, r.threads, r.bucket_us[&8]), (2, 2, 120));
        assert!(r.rows.as_ref().unwrap().independent);
        assert_eq!(r.determinism, None, "the self-test is still to run");
        assert_eq!(p.read(&ProfileKey { proofs: ProofsOption::Off, ..key("auto") }).unwrap(), None);
        p.write(&r).unwrap();
        std::fs::remove_file(old).unwrap();
        assert_eq!(p.read(&key("auto")).unwrap(), Some(r));
    }

    /// A record as format 2 wrote it stays readable.
    #[test]
    fn format_2_is_read() {
        let text = include_str!("../tests/fixtures/profile-format-2.json");
        let r: ProfileRecord = serde_json::from_str(text).unwrap();
        assert_eq!((r.format, &r.key), (2, &key("auto")));
        let found = r.determinism.as_ref().unwrap();
        assert_eq!((found.found, &found.sizes[..]), (Found::Everywhere, &[1, 2, 4][..]));
        assert_eq!(serde_json::to_string_pretty(&r).unwrap(), text.trim_end());
    }
}
