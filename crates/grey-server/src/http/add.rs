//! Registering a version over HTTP: one request, whose body is the version's file, or a form
//! (`multipart/form-data`, RFC 7578) with several. Files stream to where they stay; until the last has come
//! and the model has opened, nobody can see anything of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{Request, State},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use grey_core::{Error, ErrorKind, Label, ModelId, ModelRef, Result, Tensor, Version, VersionChoice};
use grey_serving::{Adding, BytesPermit, NewVersion, Node, main_file};
use http::{HeaderMap, StatusCode, header};
use multer::{Field, Multipart};
use tokio::time::timeout;

use super::{
    Answer, Shared, body,
    error::{json_response, shown},
    target::{Query, Target},
};
use crate::{
    clock,
    oip::{self, DecodeContext},
};

/// Largest file that an upload may have: beyond any model that one machine opens today.
const FILE_BYTES_MAX: u64 = 1 << 40;
/// Largest example request: about what one with some large images has.
pub(super) const EXAMPLE_BYTES_MAX: u64 = 64 << 20;
/// Most bytes that are read from one part of a form to the head of the next: what was read ahead, and a
/// head, which has some hundred bytes.
const PART_HEAD_BYTES_MAX: u64 = 4 << 20;

/// What the query says.
struct Asked {
    what: NewVersion,
    /// Name of the file that is the whole body.
    file: Option<String>,
}

/// `POST /grey/v1/models/{m}[/versions/{v}]?version=&load=true|false&label=L&meta.K=V`. 201 for a new version,
/// 200 for bytes that were there. The body is a form whose parts `file` are the files, by the names that they
/// have in the version, with perhaps a part `example`; or with `&file=NAME` the bytes of the one file.
pub(super) async fn add(State(app): State<Shared>, target: Target, Query(query): Query, request: Request) -> Answer {
    if body::content_coding(request.headers())?.is_some() {
        return Err(Error::new(
            ErrorKind::UnsupportedMedia,
            "a model's files are taken as they are: send them without Content-Encoding",
        )
        .into());
    }
    let Asked { what, file } = asked(target, query)?;
    let boundary = boundary(request.headers())?;
    let adding = match (file, boundary) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("the query names a file, and the body is a form: name files in the form").into());
        }
        (None, None) => {
            return Err(Error::invalid(
                "the query has no 'file', expected the file's name, e.g. file=model.onnx, or a body of type \
                 multipart/form-data with one part 'file' for each file",
            )
            .into());
        }
        (Some(name), None) => {
            // Said before the bytes come, not after.
            main_file([name.as_str()])?;
            let mut adding = app.node.begin_add(what).await?;
            adding.file(&name, chunks(request.into_body(), Metered::default()), FILE_BYTES_MAX).await?;
            adding
        }
        (None, Some(boundary)) => {
            let id = what.id.clone();
            let adding = app.node.begin_add(what).await?;
            form(&app.node, &id, adding, boundary, request.into_body()).await?
        }
    };
    let added = app.node.finish_add(adding).await?;
    let status = if added.existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok(json_response(status, &added))
}

fn asked(target: Target, query: Vec<(String, String)>) -> Result<Asked> {
    let mut version = match target.version {
        None => None,
        Some(VersionChoice::Exact(v)) => Some(v),
        // Which version that will be is for the registry to say, not for the caller: no name.
        Some(VersionChoice::Latest) => Some(Version::new(Label::LATEST)?),
    };
    let (mut file, mut load, mut metadata, mut labels) = (None, true, BTreeMap::new(), BTreeSet::new());
    for (key, value) in query {
        match key.as_str() {
            "version" if value.is_empty() => {}
            "version" => {
                let asked = Version::new(&value)?;
                if version.as_ref().is_some_and(|v| *v != asked) {
                    return Err(Error::invalid("the path and the query name different versions"));
                }
                version = Some(asked);
            }
            "file" => file = Some(value),
            "load" => load = flag("load", &value)?,
            "label" => {
                labels.insert(Label::new(&value)?);
            }
            k => match k.strip_prefix("meta.").filter(|k| !k.is_empty()) {
                Some(k) => {
                    metadata.insert(k.to_owned(), value);
                }
                None => {
                    return Err(Error::invalid(format!(
                        "unknown query parameter '{}', expected version, file, load, label or meta.NAME",
                        shown(k)
                    )));
                }
            },
        }
    }
    Ok(Asked { what: NewVersion { id: target.id, version, labels, metadata, load }, file })
}

/// The boundary of a form; `None` where the body is of another type.
fn boundary(headers: &HeaderMap) -> Result<Option<String>> {
    let kind = headers.get(header::CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("?"));
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let found = multer::parse_boundary(kind);
    found.map(Some).map_err(|e| Error::invalid(format!("Content-Type is '{}': {e}", shown(kind))))
}

/// Reads a form's parts.
async fn form(node: &Node, id: &ModelId, mut adding: Adding, boundary: String, body: Body) -> Result<Adding> {
    let metered = Metered::default();
    // The form knows no errors of ours: the first one of the body is kept here.
    let mut form = Multipart::new(Stepwise::new(chunks(body, metered.clone())), boundary);
    loop {
        metered.allow(PART_HEAD_BYTES_MAX);
        let Some(mut part) = form.next_field().await.map_err(form_error)? else { break };
        metered.allow(u64::MAX);
        let (name, file_name) = (part.name().map(str::to_owned), part.file_name().map(str::to_owned));
        match (name.as_deref(), file_name) {
            (Some("file"), Some(name)) => adding.file(&name, bytes_of(&mut part), FILE_BYTES_MAX).await?,
            (Some("file"), None) => {
                return Err(Error::invalid("a part 'file' of the form has no filename, expected the file's name"));
            }
            (Some("example"), _) => {
                let mut permit = node.take_bytes(0)?;
                let text = small(&mut part, EXAMPLE_BYTES_MAX, &mut permit).await?;
                adding.example(example(id, text, &mut permit)?)?;
            }
            (other, _) => {
                return Err(Error::invalid(format!(
                    "unknown part '{}' of the form, expected file or example",
                    shown(other.unwrap_or_default())
                )));
            }
        }
    }
    Ok(adding)
}

/// The inputs of an example: a request's body in JSON.
pub(super) fn example(id: &ModelId, text: Bytes, permit: &mut BytesPermit) -> Result<Vec<Tensor>> {
    let model = ModelRef { id: id.clone(), version: VersionChoice::Latest };
    let cx = DecodeContext {
        model: &model,
        header_length: None,
        tenant: None,
        signature: None,
        prove: None,
        now: clock::now(),
    };
    let decoded = oip::decode(cx, &text.into(), &mut |bytes| permit.grow(bytes));
    Ok(decoded.map_err(|e| e.context("the example"))?.request.inputs)
}

/// A part's bytes as they come.
fn bytes_of<'a>(part: &'a mut Field<'_>) -> Pin<Box<dyn Stream<Item = Result<Bytes>> + Send + 'a>> {
    Box::pin(part.map(|chunk| chunk.map_err(form_error)))
}

/// A whole part of at most `bytes_max` bytes.
async fn small(part: &mut Field<'_>, bytes_max: u64, permit: &mut BytesPermit) -> Result<Bytes> {
    let mut whole = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(form_error)? {
        if (whole.len() + chunk.len()) as u64 > bytes_max {
            let m = format!("the part 'example' of the form has more than {bytes_max} bytes");
            return Err(Error::new(ErrorKind::TooLarge, m));
        }
        permit.grow(chunk.len())?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.into())
}

/// Our own error, if the body's stream had one; else what is wrong with the form.
fn form_error(e: multer::Error) -> Error {
    if let multer::Error::StreamReadFailed(inner) = e {
        return match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::invalid(format!("the form cannot be read: {other}")),
        };
    }
    Error::invalid(format!("the form cannot be read: {e}"))
}

/// The body's chunks; a body that breaks off or stops ends with an error, never as if complete.
fn chunks(body: Body, metered: Metered) -> Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>> {
    let data = body.into_data_stream();
    Box::pin(stream::unfold(Some(data), move |state| {
        let metered = metered.clone();
        async move {
            let mut data = state?;
            match timeout(body::BODY_IDLE, data.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(chunk))) => match metered.take(chunk.len()) {
                    Ok(()) => Some((Ok(chunk), Some(data))),
                    Err(e) => Some((Err(e), None)),
                },
                Ok(Some(Err(e))) => Some((Err(cut_short(&e)), None)),
                Err(_) => {
                    let why = format!("the body stopped for {} s", body::BODY_IDLE.as_secs());
                    Some((Err(Error::new(ErrorKind::DeadlineExceeded, why)), None))
                }
            }
        }
    }))
}

fn cut_short(e: &dyn Display) -> Error {
    Error::invalid(format!("the body was cut short: {e}"))
}

/// Bytes that may still be read before the next part of a form begins.
#[derive(Clone)]
struct Metered(Arc<AtomicU64>);

impl Default for Metered {
    fn default() -> Self {
        Metered(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Metered {
    fn allow(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        let after = left.checked_sub(bytes as u64).ok_or_else(|| {
            Error::invalid(format!("the form has no part within {PART_HEAD_BYTES_MAX} bytes, expected the head of one"))
        })?;
        if left != u64::MAX {
            self.0.store(after, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A stream that is taken from one item at a time: the form's reader puts all that is ready into its memory,
/// and a fast sender has always more.
struct Stepwise<S> {
    inner: S,
    gave: bool,
}

impl<S> Stepwise<S> {
    fn new(inner: S) -> Self {
        Stepwise { inner, gave: false }
    }
}

impl<S: Stream + Unpin> Stream for Stepwise<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if std::mem::take(&mut self.gave) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.inner.poll_next_unpin(cx);
        self.gave = matches!(polled, Poll::Ready(Some(_)));
        polled
    }
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        other => Err(Error::invalid(format!("query parameter '{name}' is '{}', expected true or false", shown(other)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_type() {
        let of = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            boundary(&headers)
        };
        assert_eq!(of("multipart/form-data; boundary=x").unwrap().as_deref(), Some("x"));
        assert_eq!(of("Multipart/Form-Data; boundary=\"a b\"").unwrap().as_deref(), Some("a b"));
        assert_eq!(of("application/x-www-form-urlencoded").unwrap(), None);
        assert!(of("multipart/form-data").unwrap_err().message().starts_with("Content-Type is 'multipart/form-data'"));
        assert_eq!(boundary(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_lies_between_parts_is_bounded() {
        let metered = Metered::default();
        metered.take(1 << 40).unwrap();
        metered.allow(10);
        metered.take(6).unwrap();
        assert!(metered.take(5).is_err());
        metered.allow(u64::MAX);
        metered.take(usize::MAX).unwrap();
    }

    #[tokio::test]
    async fn a_stream_is_taken_from_one_item_at_a_time() {
        let mut s = Stepwise::new(stream::iter([1, 2]));
        let mut pending = 0;
        let mut items = Vec::new();
        std::future::poll_fn(|cx| {
            loop {
                match s.poll_next_unpin(cx) {
                    Poll::Ready(Some(n)) => items.push(n),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {
                        pending += 1;
                        return Poll::Pending;
                    }
                }
            }
        })
        .await;
        assert_eq!((items, pending), (vec![1, 2], 2));
    }
}
