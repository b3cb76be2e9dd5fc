//! Inference: from a request's bytes to an answer's, with the byte budget around both.

use std::fmt::Display;

use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use grey_core::{
    Error, Payload, Result, Tenant,
    oip::{HEADER_LENGTH_HEADER, PROVE_HEADER, TENANT_HEADER},
};
use grey_serving::BytesPermit;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body::Body as HttpBody;

use super::{
    Answer, App, Shared, body,
    error::{ApiError, shown},
    target::Target,
};
use crate::{
    clock,
    oip::{self, DecodeContext},
};

/// Bodies up to this size are decoded where they arrive; larger ones would hold up a thread that
/// serves other connections, so they go to the blocking pool.
const INLINE_BYTES_MAX: usize = 256 << 10;
/// Where JSON ends and binary data begins. These are values, since a text would be parsed for each request.
pub(super) static LENGTH: HeaderName = HeaderName::from_static(HEADER_LENGTH_HEADER);
/// Names the tenant until authentication exists.
static TENANT: HeaderName = HeaderName::from_static(TENANT_HEADER);
/// Asks for a proof, as the parameter `grey_prove` does.
static PROVE: HeaderName = HeaderName::from_static(PROVE_HEADER);

/// `POST …/infer`.
pub(super) async fn infer(State(app): State<Shared>, target: Target, request: Request<Body>) -> Answer {
    infer_body(&app, target, request).await
}

/// [`infer`], whatever brings the body.
pub(super) async fn infer_body<B>(app: &App, target: Target, request: Request<B>) -> Answer
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    answer(app, target, request).await.inspect_err(|ApiError(e)| app.node.count_refusal(e))
}

async fn answer<B>(app: &App, target: Target, request: Request<B>) -> Answer
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let (now, model) = (clock::now(), target.model());
    let (parts, incoming) = request.into_parts();
    let header_length = parts.headers.get(&LENGTH).map(|v| oip::header_length(v.as_bytes())).transpose()?;
    let (tenant, prove) = (tenant(&parts.headers)?, prove(&parts.headers)?);
    let (body, mut permit) = read_body(app, &parts.headers, incoming).await?;
    let signature = if header_length == Some(0) { Some(app.node.signature(&model).await?) } else { None };

    let (decoded, mut permit) = sized(body.len(), move || {
        let (tenant, signature) = (tenant.as_ref(), signature.as_ref());
        let cx = DecodeContext { model: &model, header_length, tenant, signature, prove, now };
        oip::decode(cx, &body, &mut |bytes| permit.grow(bytes)).map(|d| (d, permit))
    })
    .await??;

    let response = app.node.infer(decoded.request).await?;
    let (options, accepted) = (decoded.answer, body::accepted_coding(&parts.headers));
    let result_bytes: usize = response.outputs.iter().map(|t| t.data().len()).sum();
    permit.account(result_bytes);
    let (encoded, coding) = sized(result_bytes, move || -> Result<_> {
        let mut encoded = oip::encode(&response, &options)?;
        let coding = accepted.filter(|_| body::worth_compressing(encoded.len));
        if let Some(coding) = coding {
            encoded.chunks = vec![body::compress(coding, &encoded.chunks)?];
        }
        Ok((encoded, coding))
    })
    .await??;

    let kind = encoded.content_type();
    permit.account(encoded.chunks.iter().map(Bytes::len).sum::<usize>().saturating_sub(result_bytes));
    let mut response = Response::new(Body::new(body::ChunkBody::new(encoded.chunks, permit)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(n) = encoded.header_length {
        headers.insert(LENGTH.clone(), HeaderValue::from(n));
    }
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, body::coding_value(coding));
    }
    Ok(response)
}

/// Reads and decompresses a body under the node's budget.
pub(super) async fn read_body<B>(app: &App, headers: &HeaderMap, incoming: B) -> Result<(Payload, BytesPermit)>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let limit = app.settings.body_bytes_max();
    let coding = body::content_coding(headers)?;
    // Taken before the first byte is read: a full node refuses without taking the body in.
    let taken = body::announced(headers, limit)?.unwrap_or(0);
    let mut permit = app.node.take_bytes(taken)?;
    let body = body::read(incoming, limit, taken, &mut permit).await?;
    let Some(coding) = coding else { return Ok((body, permit)) };
    // What a compressed body becomes is not known before: always off this thread.
    sized(usize::MAX, move || body::decompress(coding, &body, limit, &mut permit).map(|b| (b, permit))).await?
}

fn tenant(headers: &HeaderMap) -> Result<Option<Tenant>> {
    let Some(value) = headers.get(&TENANT) else { return Ok(None) };
    let text = value
        .to_str()
        .map_err(|_| Error::invalid(format!("header Grey-Tenant: '{}' is no name", shown(&format!("{value:?}")))))?;
    Tenant::new(text).map(Some).map_err(|e| e.context("header Grey-Tenant"))
}

fn prove(headers: &HeaderMap) -> Result<Option<bool>> {
    let mut values = headers.get_all(&PROVE).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    if values.next().is_some() {
        return Err(Error::invalid("header Grey-Prove stands more than once, expected it once"));
    }
    match first {
        None => Ok(None),
        Some(b"1" | b"true") => Ok(Some(true)),
        Some(b"0" | b"false") => Ok(Some(false)),
        Some(other) => {
            let found = shown(&String::from_utf8_lossy(other));
            Err(Error::invalid(format!("header Grey-Prove is '{found}', expected 1 or 0")))
        }
    }
}

/// Runs `work` here if `size` is small, else on the blocking pool.
async fn sized<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if size <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("decoding or encoding failed: {e}")))
}
