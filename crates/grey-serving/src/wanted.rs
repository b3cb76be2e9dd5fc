//! Which versions an operator wants loaded, kept across restarts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use grey_core::{Error, ErrorKind, ModelId, Result, Version};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::profile::{io_error, write_json};

const WANTED_FORMAT: u32 = 1;

/// An operator's last word on a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Want {
    /// Load it again after a restart.
    Loaded,
    /// Refuse requests until `load`.
    Unloaded,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    models: BTreeMap<ModelId, BTreeMap<Version, Want>>,
}

/// The words, on disk in `loaded.json`.
#[derive(Debug)]
pub(crate) struct WantedSet {
    path: PathBuf,
    file: Mutex<File>,
}

impl WantedSet {
    pub(crate) fn open(data: &Path) -> Result<WantedSet> {
        let path = data.join("loaded.json");
        let file = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice::<File>(&text).map_err(|e| {
                Error::new(
                    ErrorKind::FailedPrecondition,
                    format!(
                        "{} is not what Grey wrote: {e}. Mend or delete it (no model will be restored)",
                        path.display()
                    ),
                )
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                File { format: WANTED_FORMAT, models: BTreeMap::new() }
            }
            Err(e) => return Err(io_error("read", &path, &e)),
        };
        if file.format > WANTED_FORMAT {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("{} has format {}, this Grey reads up to {WANTED_FORMAT}", path.display(), file.format),
            ));
        }
        Ok(WantedSet { path, file: Mutex::new(file) })
    }

    pub(crate) fn get(&self, id: &ModelId, version: &Version) -> Option<Want> {
        self.file.lock().models.get(id)?.get(version).copied()
    }

    /// Every version wanted, in order.
    pub(crate) fn all(&self) -> Vec<(ModelId, Version, Want)> {
        let file = self.file.lock();
        file.models.iter().flat_map(|(id, vs)| vs.iter().map(|(v, w)| (id.clone(), v.clone(), *w))).collect()
    }

    /// Keeps a word, or forgets it with `None`. Nothing changes if it cannot be written.
    pub(crate) fn set(&self, id: &ModelId, version: &Version, want: Option<Want>) -> Result<()> {
        let mut file = self.file.lock();
        let before = file.models.get(id).and_then(|vs| vs.get(version)).copied();
        if before == want {
            return Ok(());
        }
        apply(&mut file, id, version, want);
        write_json(&self.path, &*file).inspect_err(|_| apply(&mut file, id, version, before))
    }
}

fn apply(file: &mut File, id: &ModelId, version: &Version, want: Option<Want>) {
    match want {
        Some(w) => {
            file.models.entry(id.clone()).or_default().insert(version.clone(), w);
        }
        None => {
            if let Some(vs) = file.models.get_mut(id) {
                vs.remove(version);
                if vs.is_empty() {
                    file.models.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (id, v) = (ModelId::new("m").unwrap(), Version::new("1").unwrap());
        WantedSet::open(dir.path()).unwrap().set(&id, &v, Some(Want::Loaded)).unwrap();
        let set = WantedSet::open(dir.path()).unwrap();
        assert_eq!(set.all(), [(id.clone(), v.clone(), Want::Loaded)]);
        set.set(&id, &v, None).unwrap();
        assert_eq!(WantedSet::open(dir.path()).unwrap().get(&id, &v), None);
        std::fs::write(dir.path().join("loaded.json"), r#"{"format":2,"models":{}}"#).unwrap();
        assert!(WantedSet::open(dir.path()).unwrap_err().message().contains("format 2"));
    }
}
