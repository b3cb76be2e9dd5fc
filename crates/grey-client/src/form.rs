//! A form (`multipart/form-data`, RFC 7578) with a version's files, which are read as they are sent.

use std::path::PathBuf;

use bytes::Bytes;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{
    Error, Result,
    body::{Body, Part},
    text::shown,
};

/// Random bytes of a boundary: no file has them.
const BOUNDARY_BYTES: usize = 24;

/// The body of a request.
pub(crate) struct Form {
    boundary: String,
    parts: Vec<Part>,
}

impl Form {
    /// A form of these files, by the names that they are to have, and an example if there is one.
    ///
    /// # Errors
    /// [`Error::Argument`] for what cannot be read, or is no file.
    pub async fn new(files: &[(String, PathBuf)], example: Option<&Bytes>) -> Result<Form> {
        let mut bytes = [0; BOUNDARY_BYTES];
        getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|e| Error::Argument(format!("the system gives no random bytes: {e}")))?;
        let mut form = Form { boundary: format!("grey-{}", base16ct::lower::encode_string(&bytes)), parts: Vec::new() };
        // First, as it is small: what is wrong with it is said before the files are sent.
        if let Some(example) = example {
            form.part("example", "example.json", Part::Bytes(example.clone()));
        }
        for (name, path) in files {
            let at = || shown(&path.to_string_lossy()).to_string();
            let meta =
                tokio::fs::metadata(path).await.map_err(|e| Error::Argument(format!("cannot read '{}': {e}", at())))?;
            if !meta.is_file() {
                return Err(Error::Argument(format!("'{}' is not a file", at())));
            }
            form.part("file", name, Part::File(path.clone(), meta.len()));
        }
        form.text(format!("--{}--\r\n", form.boundary));
        Ok(form)
    }

    fn part(&mut self, name: &str, file: &str, content: Part) {
        self.text(format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{}\"\r\nContent-Type: \
             application/octet-stream\r\n\r\n",
            self.boundary,
            file.replace('"', "\\\"")
        ));
        self.parts.push(content);
        self.text("\r\n".to_owned());
    }

    fn text(&mut self, text: String) {
        self.parts.push(Part::Bytes(text.into()));
    }

    /// The type of this body.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    pub fn into_body(self) -> Body {
        Body::parts(self.parts)
    }
}
