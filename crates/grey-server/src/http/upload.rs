//! Files that a `load` request brings: Triton's model repository extension
//! (`protocol/extension_model_repository.md`), as far as it fits a registry of immutable versions.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use grey_core::{Error, ErrorKind, ModelId, Result, Version};
use grey_registry::FilePath;

use super::error::shown;
use crate::oip::{
    Budget,
    json::{self, Given, Scalar},
};

/// Keys of a configuration that only say again what the files and the path say.
const HARMLESS_KEYS: [&str; 3] = ["name", "platform", "backend"];

/// The files of one version.
type Files = Vec<(FilePath, Bytes)>;

/// What is to be registered.
#[derive(Debug)]
pub(super) struct Upload {
    /// In the order in which they are registered, so that the highest becomes the latest.
    pub versions: Vec<(Version, Files)>,
}

/// The answer of a node that does not allow it.
pub(super) fn refused(parameters: &BTreeMap<String, Scalar<'static>>) -> Error {
    let key = parameters.keys().next().map_or("", String::as_str);
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "load with parameter '{}': this node takes no files or overrides with load (--allow-upload, \
             allow_upload: true); register the model with 'grey model add', then load it without parameters",
            shown(key)
        ),
    )
}

/// Reads the parameters of a `load`. `budget` is asked for the files before they are decoded.
pub(super) fn parse(
    model: &ModelId,
    parameters: &BTreeMap<String, Scalar<'static>>,
    budget: &mut Budget<'_>,
) -> Result<Upload> {
    // By number, so that 9 comes before 10.
    let mut versions: BTreeMap<(Option<u64>, Version), Files> = BTreeMap::new();
    for (key, value) in parameters {
        let fail = |why: String| Error::invalid(format!("parameter '{}': {why}", shown(key)));
        let Scalar::Text(text) = value else {
            return Err(fail(format!("it is {}, expected text", value.shown())));
        };
        if key == "config" {
            check_config(model, text, budget)?;
            continue;
        }
        let named = key.strip_prefix("file:").and_then(|k| k.split_once('/'));
        let (version, path) = named.ok_or_else(|| fail("expected config, or file:VERSION/PATH".into()))?;
        let (version, path) = (Version::new(version)?, FilePath::new(path)?);
        budget(base64::decoded_len_estimate(text.len()))?;
        let data = STANDARD.decode(&**text).map_err(|e| fail(format!("it is not base64: {e}")))?;
        versions.entry((version.number(), version)).or_default().push((path, data.into()));
    }
    if versions.is_empty() {
        return Err(unsupported("a configuration without files"));
    }
    Ok(Upload { versions: versions.into_iter().map(|((_, version), files)| (version, files)).collect() })
}

/// Triton demands a configuration beside files. How a model is served is the operator's word here.
fn check_config(model: &ModelId, text: &str, budget: &mut Budget<'_>) -> Result<()> {
    let bad = |why: String| Error::invalid(format!("parameter 'config': it is not a JSON object: {why}"));
    budget(text.len().saturating_add(json::survey(text).map_err(bad)?))?;
    let config = json::object::<Given>(text).map_err(bad)?.0;
    if let Some(key) = config.keys().find(|k| !HARMLESS_KEYS.contains(&k.as_str())) {
        return Err(unsupported(&format!("the key '{}' of 'config'", shown(key))));
    }
    match config.get("name") {
        Some(Scalar::Text(name)) if !name.is_empty() && name != model.as_str() => Err(Error::invalid(format!(
            "parameter 'config': it names the model '{}', the path names '{model}'",
            shown(name)
        ))),
        _ => Ok(()),
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "overriding a model's configuration by load is not supported ({what}): set it in the node's configuration, under 'models'"
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn given(v: Value) -> Result<Upload> {
        let Given(parameters) = serde_json::from_value(v).unwrap();
        parse(&ModelId::new("m").unwrap(), &parameters, &mut |_| Ok(()))
    }

    #[test]
    fn files_are_grouped_by_version_in_number_order() {
        let u = given(json!({
            "config": "{\"name\":\"m\",\"backend\":\"onnxruntime\"}",
            "file:10/model.onnx": "AQI=",
            "file:9/model.onnx": "AQ==",
            "file:9/model.onnx.data": "",
        }))
        .unwrap();
        let names: Vec<_> = u.versions.iter().map(|(v, files)| (v.as_str(), files.len())).collect();
        assert_eq!(names, [("9", 2), ("10", 1)]);
        assert_eq!(u.versions[1].1[0].1[..], [1, 2]);
        let parameters = BTreeMap::from([("file:1/a".to_owned(), Scalar::Text("?".repeat(400).into()))]);
        let mut asked = 0;
        let e = parse(&ModelId::new("m").unwrap(), &parameters, &mut |n| {
            asked += n;
            Err(Error::new(ErrorKind::Overloaded, "full"))
        });
        assert_eq!((e.unwrap_err().kind(), asked), (ErrorKind::Overloaded, 300), "before it is decoded");
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (parameters, says) in [
            (json!({"file:1/model.onnx": "?"}), "parameter 'file:1/model.onnx': it is not base64"),
            (json!({"file:1/model.onnx": 1}), "expected text"),
            (json!({"file:1": "AQ=="}), "expected config, or file:VERSION/PATH"),
            (json!({"fle:1/a": "AQ=="}), "expected config, or file:VERSION/PATH"),
            (json!({"file:../model.onnx": "AQ=="}), "invalid version '..'"),
            (json!({"file:1/../../x.onnx": "AQ=="}), "invalid file name"),
            (json!({"file:1/a": "AQ==", "config": "{\"max_batch_size\":4}"}), "'max_batch_size' of 'config'"),
            (json!({"file:1/a": "AQ==", "config": "{\"name\":\"n\"}"}), "names the model 'n', the path names 'm'"),
            (json!({"file:1/a": "AQ==", "config": "["}), "not a JSON object"),
            (json!({"config": "{}"}), "a configuration without files"),
        ] {
            let e = given(parameters.clone()).unwrap_err();
            assert!(e.message().contains(says), "{parameters}: {e}");
        }
    }
}
