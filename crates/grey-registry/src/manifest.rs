//! Manifests and index entries: JSON on the outside, checked types inside.

use std::collections::{BTreeMap, BTreeSet};

use grey_core::{Error, ErrorKind, Label, ModelId, Result, Signature, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::hash::{FilePath, ModelHash, Sha256Hash};

/// Largest manifest or index entry that is read, in bytes.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// What the registry keeps as JSON.
pub(crate) trait Document: DeserializeOwned {
    /// The format that this build writes, and the newest that it reads.
    const FORMAT: u32;
}

impl Document for Manifest {
    const FORMAT: u32 = 1;
}

/// Format 1 had no examples.
impl Document for IndexEntry {
    const FORMAT: u32 = 2;
}

/// Random bytes in an upload's name: no two are ever the same.
const UPLOAD_NAME_BYTES: usize = 16;

/// Name of the folder that one upload's files lie in, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UploadName(String);

impl UploadName {
    /// A name that nothing else has.
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0u8; UPLOAD_NAME_BYTES];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::internal(format!("the system gives no random bytes: {e}")))?;
        Ok(Self(base16ct::lower::encode_string(&bytes)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for UploadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for UploadName {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        let mut bytes = [0u8; UPLOAD_NAME_BYTES];
        match base16ct::lower::decode(&s, &mut bytes) {
            Ok(read) if read.len() == UPLOAD_NAME_BYTES => Ok(Self(s)),
            _ => Err(Error::invalid(format!(
                "invalid upload '{}': expected {} hexadecimal digits in lower case",
                s.chars().take(80).flat_map(char::escape_default).collect::<String>(),
                2 * UPLOAD_NAME_BYTES
            ))),
        }
    }
}

impl From<UploadName> for String {
    fn from(name: UploadName) -> String {
        name.0
    }
}

/// A file of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Its path in the version.
    pub path: FilePath,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Sha256Hash,
}

/// What a version is. Immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of this document.
    pub format: u32,
    /// The model.
    pub id: ModelId,
    /// The version.
    pub version: Version,
    /// Hash over all files.
    pub model_hash: ModelHash,
    /// Folder of the files under the model's, made new for each upload.
    pub upload: UploadName,
    /// The files, in byte order of their paths.
    pub files: Vec<ModelFile>,
    /// The engine that opens it.
    pub engine: String,
    /// What it takes and gives, as that engine read it from the model.
    pub signature: Signature,
    /// Whatever the operator wants to remember.
    pub metadata: BTreeMap<String, String>,
    /// When it was registered, Unix seconds.
    pub created: u64,
}

impl Manifest {
    /// What is wrong with it, if anything is: the version's hash is what proofs state, so it must be
    /// that of the very files that are checked when they are read.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let in_order = self.files.is_sorted_by(|a, b| a.path.as_str().as_bytes() < b.path.as_str().as_bytes());
        if !in_order {
            return Some("its files are not in byte order of their paths, each once".to_owned());
        }
        match ModelHash::of(self.files.iter().map(|f| (&f.path, f.sha256))) {
            None => Some("it has no files".to_owned()),
            Some(hash) if hash != self.model_hash => {
                Some(format!("its model_hash is {}, but that of its files is {hash}", self.model_hash))
            }
            Some(_) => None,
        }
    }
}

/// The example request of a version. Its bytes lie beside the model's versions, named by their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// SHA-256 of its bytes.
    pub sha256: Sha256Hash,
    /// Bytes.
    pub size: u64,
}

/// One entry of a model's index: the whole state after one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// Format of this document.
    pub format: u32,
    /// Its place in the sequence, from 1.
    pub sequence: u64,
    /// When it was made, Unix seconds.
    pub time: u64,
    /// What changed, for people.
    pub action: String,
    /// The versions that exist, and their hashes.
    pub versions: BTreeMap<Version, ModelHash>,
    /// Names that were used and are not used again.
    pub removed: BTreeSet<Version>,
    /// Label → version; `latest` among them.
    pub labels: BTreeMap<Label, Version>,
    /// Versions that have an example request.
    #[serde(default)]
    pub examples: BTreeMap<Version, Example>,
}

impl IndexEntry {
    /// The next entry, before its change.
    pub(crate) fn next(previous: Option<&IndexEntry>, time: u64, action: String) -> IndexEntry {
        IndexEntry {
            format: <IndexEntry as Document>::FORMAT,
            sequence: previous.map_or(1, |p| p.sequence.saturating_add(1)),
            time,
            action,
            versions: previous.map(|p| p.versions.clone()).unwrap_or_default(),
            removed: previous.map(|p| p.removed.clone()).unwrap_or_default(),
            labels: previous.map(|p| p.labels.clone()).unwrap_or_default(),
            examples: previous.map(|p| p.examples.clone()).unwrap_or_default(),
        }
    }

    /// The least integer above all integers ever used as a version; `None` above the largest.
    pub(crate) fn next_integer(&self) -> Option<u64> {
        let used = self.versions.keys().chain(&self.removed).filter_map(Version::number);
        used.max().unwrap_or(0).checked_add(1)
    }

    /// Why no label of the model may have this name, if so: names of versions stay theirs for good.
    pub(crate) fn label_refusal(&self, label: &Label) -> Option<String> {
        let taken = self.versions.keys().chain(&self.removed).any(|v| v.as_str() == label.as_str());
        taken.then(|| format!("'{label}' is the name of a version"))
    }

    /// What is wrong with an entry read as number `sequence`, if anything is: serde checks the parts,
    /// this checks that they agree.
    pub(crate) fn contradiction(&self, sequence: u64) -> Option<String> {
        if self.sequence != sequence {
            return Some(format!("it says that it is entry {}", self.sequence));
        }
        if let Some(v) = self.versions.keys().find(|v| self.removed.contains(v)) {
            return Some(format!("version '{v}' both exists and was removed"));
        }
        if let Some((label, v)) = self.labels.iter().find(|(_, v)| !self.versions.contains_key(v)) {
            return Some(format!("label '{label}' means version '{v}', which does not exist"));
        }
        if let Some(v) = self.examples.keys().find(|v| !self.versions.contains_key(v)) {
            return Some(format!("there is an example of version '{v}', which does not exist"));
        }
        if let Some(both) = self.labels.keys().find_map(|l| self.label_refusal(l)) {
            return Some(format!("{both} and a label"));
        }
        let no_latest = !self.versions.is_empty() && !self.labels.contains_key(Label::LATEST);
        no_latest.then(|| format!("there are versions, and none is '{}'", Label::LATEST))
    }

    /// Points `latest` at the highest remaining version if it points at none: integers by value,
    /// above all other names by name.
    pub(crate) fn settle_latest(&mut self) {
        self.labels.retain(|_, v| self.versions.contains_key(v));
        self.examples.retain(|v, _| self.versions.contains_key(v));
        if !self.labels.contains_key(Label::LATEST)
            && let Some(v) = self.versions.keys().max_by_key(|v| (v.number(), (*v).clone()))
        {
            self.labels.insert(Label::latest(), v.clone());
        }
    }
}

/// A model's newest index entry with the manifests that it lists.
#[derive(Clone, Debug)]
pub struct Index {
    /// The entry.
    pub entry: IndexEntry,
    /// The manifests of its versions.
    pub manifests: BTreeMap<Version, std::sync::Arc<Manifest>>,
}

impl Index {
    /// What requests without a version get.
    pub fn latest(&self) -> Option<&Version> {
        self.entry.labels.get(Label::LATEST)
    }

    /// The labels that mean `version`, in order.
    pub fn labels_of(&self, version: &Version) -> Vec<Label> {
        self.entry.labels.iter().filter(|(_, v)| *v == version).map(|(l, _)| l.clone()).collect()
    }
}

/// Reads a document after looking at its format, so that a newer one is named as such.
pub(crate) fn parse<T: Document>(what: &str, text: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let refuse = |m: String| Error::new(ErrorKind::FailedPrecondition, m);
    if let Ok(Format { format }) = serde_json::from_slice(text)
        && format > T::FORMAT
    {
        let newest = T::FORMAT;
        return Err(refuse(format!("{what} has format {format}; this Grey reads up to {newest}, use a newer one")));
    }
    serde_json::from_slice(text).map_err(|e| refuse(format!("{what} is not what Grey wrote: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents as format 1 wrote them stay readable.
    #[test]
    fn format_1_is_read_and_a_newer_one_refused_by_name() {
        let m = include_str!("../tests/fixtures/manifest-format-1.json");
        let manifest: Manifest = parse("manifest", m.as_bytes()).unwrap();
        assert_eq!((manifest.id.as_str(), manifest.files.len()), ("digits", 1));
        let i = include_str!("../tests/fixtures/index-format-1.json");
        let index: IndexEntry = parse("index entry", i.as_bytes()).unwrap();
        assert_eq!(index.labels[Label::LATEST].as_str(), "2");
        let i = include_str!("../tests/fixtures/index-format-2.json");
        let index: IndexEntry = parse("index entry", i.as_bytes()).unwrap();
        assert_eq!((index.labels["stable"].as_str(), index.examples.len()), ("1", 1));
        assert_eq!(index.contradiction(3), None);
        assert_eq!(serde_json::to_string_pretty(&index).unwrap(), i.trim_end());
        let e = parse::<Manifest>("manifest m", m.replace("\"format\": 1", "\"format\": 7").as_bytes()).unwrap_err();
        assert!(e.message().starts_with("manifest m has format 7; this Grey reads up to 1"), "{e}");
        for broken in [
            "",
            "{",
            "[]",
            "{\"format\":1}",
            &m.replace("\"digits\"", "\"../x\""),
            &m.replace("00112233445566778899aabbccddeeff", "../../other/files/1"),
            &m.replace("00112233445566778899aabbccddeeff", "00112233445566778899AABBCCDDEEFF"),
            &m.replace("\"files\"", "\"flies\""),
        ] {
            assert!(parse::<Manifest>("manifest", broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn integers_are_not_used_again_and_latest_moves_down() {
        let v = |s: &str| Version::new(s).unwrap();
        let hash = ModelHash { scheme: crate::HashScheme::File, sha256: Sha256Hash([0; 32]) };
        let mut e = IndexEntry::next(None, 0, "add".into());
        for name in ["1", "2", "10", "beta"] {
            e.versions.insert(v(name), hash);
        }
        e.removed.insert(v("12"));
        assert_eq!(e.next_integer(), Some(13));
        e.settle_latest();
        assert_eq!(e.labels[Label::LATEST], v("10"));
        e.versions.remove(&v("10"));
        e.settle_latest();
        assert_eq!(e.labels[Label::LATEST], v("2"));
    }
}
