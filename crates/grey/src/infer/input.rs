//! What a request is made of: a body in JSON, arrays, or pictures, told apart by their content.

use std::path::{Path, PathBuf};

use grey_core::{DType, Tensor};
use serde::Deserialize;

use super::image::{self, ImageArgs, Picture};
use crate::{
    arrays::{self, Array},
    client::Client,
    failure::Failure,
    files,
    request::{Document, Request},
};

/// One `--input`: `FILE`, or `NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputArg {
    pub(crate) name: Option<String>,
    pub(crate) path: PathBuf,
}

impl InputArg {
    /// A file that has that whole name is meant, else what stands before the first `=` is an input's name.
    pub(crate) fn parse(text: &str) -> Result<InputArg, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() && !Path::new(text).exists() => {
                Ok(InputArg { name: Some(name.to_owned()), path: path.into() })
            }
            _ if text.is_empty() => Err("expected FILE or NAME=FILE".to_owned()),
            _ => Ok(InputArg { name: None, path: text.into() }),
        }
    }
}

/// What a model says of an input.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct InputSpec {
    pub(crate) name: String,
    pub(crate) datatype: DType,
    /// −1 where any size goes.
    pub(crate) shape: Vec<i64>,
}

/// The inputs of a model, as it describes itself (`GET /v2/models/…`).
pub(crate) fn signature(client: &Client, path: &str) -> Result<Vec<InputSpec>, Failure> {
    let list = client.list(path, "inputs")?;
    serde_json::from_value(list).map_err(|e| {
        Failure::unexpected(format!("the model's inputs cannot be read: {e}"))
            .hint("is it a server of the protocol v2?")
    })
}

/// A file's content, by its first bytes.
enum Content {
    Json,
    Npy(Array),
    Npz(Vec<(String, Array)>),
    Picture,
}

struct Read<'a> {
    arg: &'a InputArg,
    bytes: Vec<u8>,
    content: Content,
}

impl Read<'_> {
    fn shown(&self) -> String {
        files::shown(&self.arg.path)
    }
}

fn read_all(args: &[InputArg]) -> Result<Vec<Read<'_>>, Failure> {
    if args.iter().filter(|a| files::is_standard_input(&a.path)).count() > 1 {
        return Err(Failure::usage("--input: standard input ('-') can be read once"));
    }
    args.iter().map(read_one).collect()
}

fn read_one(arg: &InputArg) -> Result<Read<'_>, Failure> {
    let path = &arg.path;
    let bytes = files::read(path)?;
    let refused = |e: String| Failure::refused(format!("{}: {e}", files::shown(path)));
    let content = if arrays::is_npy(&bytes) {
        Content::Npy(arrays::read_npy(&bytes).map_err(refused)?)
    } else if arrays::is_npz(&bytes) {
        Content::Npz(arrays::read_npz(&bytes).map_err(refused)?)
    } else if image::format(&bytes).is_some() {
        Content::Picture
    } else if let Some(f) = disappoints(path, &bytes) {
        return Err(f);
    } else {
        Content::Json
    };
    Ok(Read { arg, bytes, content })
}

/// A file whose name promises what its content is not.
fn disappoints(path: &Path, bytes: &[u8]) -> Option<Failure> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let expected = match ending.as_str() {
        "npy" => "a NumPy array",
        "npz" => "NumPy arrays (a zip)",
        "png" | "jpg" | "jpeg" => "a PNG or JPEG picture",
        "gif" | "webp" | "bmp" | "tif" | "tiff" | "avif" | "heic" => {
            return Some(
                Failure::refused(format!("{}: pictures are read from PNG and JPEG", path.display()))
                    .hint("convert it first, e.g. with Pillow: Image.open(…).save('x.png')"),
            );
        }
        "pt" | "pth" | "pkl" | "pickle" => {
            return Some(
                Failure::refused(format!("{}: pickles are not read, they are programs", path.display()))
                    .hint("save the array as x.npy: numpy.save('x.npy', array)"),
            );
        }
        _ => return None,
    };
    let what = if bytes.is_empty() { "it is empty" } else { "it begins otherwise" };
    Some(Failure::refused(format!("{}: expected {expected}, but {what}", path.display())))
}

/// The request that these files make, without a model to ask: arrays need names of their own.
pub(crate) fn known_request(args: &[InputArg]) -> Result<Request<'_>, Failure> {
    let read = read_all(args)?;
    if let Some(document) = document(&read)? {
        return Ok(Request::Document(document));
    }
    let mut tensors = Vec::new();
    for read in read {
        let shown = read.shown();
        match (read.content, &read.arg.name) {
            (Content::Npy(array), Some(name)) => push(&mut tensors, made(name, array, &shown)?)?,
            (Content::Npy(_), None) => {
                return Err(Failure::usage(format!("--input {shown}: an array has no name of its own"))
                    .hint(format!("say which input it is: --input NAME={shown}")));
            }
            (Content::Npz(arrays), _) => {
                for (name, array) in arrays {
                    push(&mut tensors, made(&name, array, &shown)?)?;
                }
            }
            (Content::Picture | Content::Json, _) => {
                return Err(Failure::usage(format!(
                    "--input {shown}: a picture says nothing of the numbers that were sent"
                ))
                .hint("give the arrays that were sent: grey infer --save-input x.npz keeps them"));
            }
        }
    }
    Ok(Request::Arrays(tensors))
}

/// The request that these files make for a model, whose inputs `signature` tells if it is needed.
pub(crate) fn request<'a>(
    args: &'a [InputArg],
    pictures: &ImageArgs,
    signature: impl FnOnce() -> Result<Vec<InputSpec>, Failure>,
) -> Result<Request<'a>, Failure> {
    let read = read_all(args)?;
    let has_picture = read.iter().any(|r| matches!(r.content, Content::Picture));
    if let Some(flag) = pictures.given()
        && !has_picture
    {
        return Err(Failure::usage(format!("{flag} is about pictures, and no --input is one")));
    }
    if let Some(document) = document(&read)? {
        return Ok(Request::Document(document));
    }
    let signature = signature()?;
    let mut tensors = Vec::new();
    let mut images: Vec<(&InputSpec, Vec<Picture>)> = Vec::new();
    for read in read {
        let shown = read.shown();
        match read.content {
            Content::Npy(array) => {
                let input = named(&signature, read.arg, &shown)?;
                push(&mut tensors, checked(input, array, &shown)?)?;
            }
            Content::Npz(arrays) => {
                for (name, array) in arrays {
                    push(&mut tensors, checked(find(&signature, &name, &shown)?, array, &shown)?)?;
                }
            }
            Content::Picture | Content::Json => {
                let input = named(&signature, read.arg, &shown)?;
                match images.iter_mut().find(|(i, _)| i.name == input.name) {
                    Some((_, pictures)) => pictures.push((shown, read.bytes)),
                    None => images.push((input, vec![(shown, read.bytes)])),
                }
            }
        }
    }
    for (input, files) in images {
        push(&mut tensors, image::tensor(input, &files, pictures)?)?;
    }
    let missing: Vec<&str> =
        signature.iter().map(|i| i.name.as_str()).filter(|n| !tensors.iter().any(|t| t.name() == *n)).collect();
    if !missing.is_empty() {
        return Err(Failure::usage(format!("the model has inputs that no --input is for: {}", missing.join(", ")))
            .hint("give each: --input NAME=FILE, or an .npz whose arrays have their names"));
    }
    Ok(Request::Arrays(tensors))
}

/// The body in JSON, if it is one, which then stands alone.
fn document<'a>(read: &[Read<'a>]) -> Result<Option<Document<'a>>, Failure> {
    let Some(json) = read.iter().find(|r| matches!(r.content, Content::Json)) else { return Ok(None) };
    if read.len() > 1 {
        return Err(Failure::usage(format!("--input {}: a body in JSON is the whole request", json.shown()))
            .hint("give it alone, or all inputs as .npy, .npz or pictures"));
    }
    if let Some(name) = &json.arg.name {
        return Err(Failure::usage(format!(
            "--input {name}={}: expected an array or a picture, found neither",
            json.shown()
        ))
        .hint("a body in JSON is the whole request: --input FILE"));
    }
    Document::of(&json.arg.path, json.bytes.clone()).map(Some)
}

fn push(tensors: &mut Vec<Tensor>, tensor: Tensor) -> Result<(), Failure> {
    if tensors.iter().any(|t| t.name() == tensor.name()) {
        return Err(Failure::usage(format!("--input: input '{}' is given twice", tensor.name().escape_debug())));
    }
    tensors.push(tensor);
    Ok(())
}

fn made(name: &str, array: Array, shown: &str) -> Result<Tensor, Failure> {
    Tensor::new(name, array.dtype, array.shape, array.data)
        .map_err(|e| Failure::refused(format!("{shown}: {}", e.message())))
}

/// The input that an `--input` is for.
fn named<'a>(signature: &'a [InputSpec], arg: &InputArg, shown: &str) -> Result<&'a InputSpec, Failure> {
    match (&arg.name, signature) {
        (Some(name), _) => find(signature, name, shown),
        (None, [only]) => Ok(only),
        (None, many) => {
            let names: Vec<&str> = many.iter().map(|i| i.name.as_str()).collect();
            Err(Failure::usage(format!("--input {shown}: the model has {} inputs: {}", many.len(), names.join(", ")))
                .hint(format!("say which it is: --input {}={shown}", names.first().unwrap_or(&"NAME"))))
        }
    }
}

fn find<'a>(signature: &'a [InputSpec], name: &str, shown: &str) -> Result<&'a InputSpec, Failure> {
    if let Some(found) = signature.iter().find(|i| i.name == name) {
        return Ok(found);
    }
    let names: Vec<&str> = signature.iter().map(|i| i.name.as_str()).collect();
    let failure = Failure::usage(format!(
        "{shown}: the model has no input '{}', expected {}",
        name.escape_debug(),
        names.join(", ")
    ));
    Err(match grey_core::nearest(name, names.iter().copied()) {
        Some(near) => failure.hint(format!("did you mean '{near}'?")),
        None => failure,
    })
}

/// The array as the input's tensor. Types are never converted: that would change numbers unseen.
fn checked(input: &InputSpec, array: Array, shown: &str) -> Result<Tensor, Failure> {
    if array.dtype != input.datatype {
        let failure = Failure::refused(format!(
            "{shown}: input '{}' takes {}, the array holds {}",
            input.name.escape_debug(),
            numpy(input.datatype),
            numpy(array.dtype)
        ));
        return Err(match numpy_name(input.datatype) {
            Some(name) => failure.hint(format!("convert it: numpy.save('x.npy', array.astype('{name}'))")),
            None => failure.hint("NumPy has no such type: send it in JSON"),
        });
    }
    made(&input.name, array, shown)
}

fn numpy(dtype: DType) -> String {
    match numpy_name(dtype) {
        Some(name) => format!("{dtype} (numpy {name})"),
        None => dtype.to_string(),
    }
}

/// NumPy's name of a type; it has no bfloat16.
fn numpy_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "bool",
        DType::Uint8 => "uint8",
        DType::Uint16 => "uint16",
        DType::Uint32 => "uint32",
        DType::Uint64 => "uint64",
        DType::Int8 => "int8",
        DType::Int16 => "int16",
        DType::Int32 => "int32",
        DType::Int64 => "int64",
        DType::Fp16 => "float16",
        DType::Fp32 => "float32",
        DType::Fp64 => "float64",
        DType::Bytes => "S",
        DType::Bf16 => return None,
    })
}
