//! `grey infer`: one request, its answer, and if asked for a proof of both.

mod image;
mod input;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use grey_core::{DType, ELEMENT_LENGTH_BYTES, Label, Tensor};
use grey_proof::{
    Bundle, Check, CheckResult, Known, KnownRequest, Platform, Policy, Proof, SessionBundle, SoftwareEvidence,
    SoftwareKeys, task_id_text,
};
use serde_json::Value;

pub(crate) use self::{
    image::ImageArgs,
    input::{InputArg, InputSpec, known_request, request, signature},
};
use crate::{
    args::InferArgs,
    arrays,
    client::{Answer, Client},
    encoding::{Base64, base64, escaped, hex, hex32, quoted, quoted_path, salt_file, shown},
    failure::Failure,
    files,
    request::{Document, Request, known},
    verbs::{print, print_json, text},
};

/// Bytes of a nonce that is made here.
const NONCE_BYTES: usize = 32;
/// Most lines that an output gets on a terminal.
const LINES_MAX: usize = 20;
/// Most elements of one line.
const ELEMENTS_MAX: usize = 16;

/// How the path of a file with arrays ends.
const ARRAYS_SUFFIX: &[u8] = b".npz";

/// Sends the request, writes what is to be kept, and prints the answer.
pub(crate) fn run(client: &Client, args: &InferArgs, json: bool) -> Result<(), Failure> {
    let client = client.about(&args.model);
    let version = args.version.as_ref().map_or_else(String::new, |v| format!("/versions/{v}"));
    let model = format!("/v2/models/{}{version}", args.model);
    can_write(args)?;
    let request = request(&args.input, &args.pictures, || signature(&client, &model))?;
    if let Some(path) = &args.save_input {
        files::write(path, &packed(&request.inputs()?, path)?)?;
    }
    let Some(file) = &args.prove else {
        let answer = Answered::new(&client, client.infer(&format!("{model}/infer"), &request.body(args.wanted())?)?)?;
        answer.keep(args)?;
        return answer.print(json, String::new());
    };
    let asked = Asked::new(&request, args)?;
    let parameters = [args.wanted(), asked.parameters()].concat();
    let answer = Answered::new(&client, client.infer(&format!("{model}/infer"), &request.body(parameters)?)?)?;
    answers(&client, &answer.json, &request, args)?;
    let (bytes, bundle) = fetch(&client, &answer.json, &asked.nonce)?;
    let proof = examine(&bytes, &request, &answer, args, &asked)?;
    let encoded = encoded(file, &bytes)?;
    answer.keep(args)?;
    files::write(file, &encoded)?;
    answer.print(json, told(&proof, &bundle, file, args, &asked, &request))
}

/// Tensors as the content of `path`.
fn packed(tensors: &[Tensor], path: &Path) -> Result<Vec<u8>, Failure> {
    arrays::write_npz(tensors).map_err(|e| {
        Failure::refused(format!("cannot write {}: {e}", path.display()))
            .hint("JSON holds it: give --output a name that does not end in .npz")
    })
}

fn ends_in(path: &Path, suffix: &[u8]) -> bool {
    path.as_os_str().as_encoded_bytes().to_ascii_lowercase().ends_with(suffix)
}

impl InferArgs {
    fn keeps_arrays(&self) -> bool {
        self.output.as_ref().is_some_and(|path| ends_in(path, ARRAYS_SUFFIX))
    }

    /// What is asked of the node for the files that are written: arrays may hold what JSON cannot.
    fn wanted(&self) -> Vec<(&'static str, Value)> {
        if self.keeps_arrays() { vec![("binary_data_output", Value::Bool(true))] } else { Vec::new() }
    }
}

/// An answer, read.
struct Answered {
    text: String,
    tail: Vec<u8>,
    json: Value,
}

impl Answered {
    fn new(client: &Client, answer: Answer) -> Result<Answered, Failure> {
        let json = client.json(&answer.bytes)?;
        let text = String::from_utf8(answer.bytes).map_err(|_| client.stranger("outputs"))?;
        Ok(Answered { text, tail: answer.tail, json })
    }

    fn outputs(&self) -> Result<Vec<Tensor>, Failure> {
        let answer = Document::new(Path::new("the answer"), self.text.clone()).with_tail(self.tail.clone());
        // That it cannot be read is nobody's file.
        answer
            .outputs()
            .map_err(|f| Failure::unexpected(f.message).hint("is it a server of the Open Inference Protocol?"))
    }

    fn keep(&self, args: &InferArgs) -> Result<(), Failure> {
        match &args.output {
            None => Ok(()),
            Some(path) if args.keeps_arrays() => files::write(path, &packed(&self.outputs()?, path)?),
            Some(_) if !self.tail.is_empty() => {
                Err(Failure::refused("the request asks for binary outputs, which JSON does not hold")
                    .hint("leave binary_data and binary_data_output out of the request, or write to --output y.npz"))
            }
            Some(path) => files::write(path, self.text.as_bytes()),
        }
    }

    fn print(&self, json: bool, more: String) -> Result<(), Failure> {
        match json {
            true => print_json(&self.json),
            false => print(&(readable(&self.json, &self.outputs()?) + &more)),
        }
    }
}

/// The tensors of a file with an answer: its JSON, or its arrays.
pub(crate) fn read_outputs(path: &Path) -> Result<Vec<Tensor>, Failure> {
    let bytes = files::read(path)?;
    if !arrays::is_npz(&bytes) {
        return Document::of(path, bytes)?.outputs();
    }
    let refused = |e: &dyn fmt::Display| Failure::refused(format!("{}: {e}", files::shown(path)));
    let arrays = arrays::read_npz(&bytes).map_err(|e| refused(&e))?;
    let one = |(name, a): (String, arrays::Array)| Tensor::new(name, a.dtype, a.shape, a.data);
    arrays.into_iter().map(one).collect::<grey_core::Result<_>>().map_err(|e| refused(&e.message()))
}

/// Refuses, before anything is sent, names of files that would cost the user the answer, or a file.
fn can_write(args: &InferArgs) -> Result<(), Failure> {
    fn named<'a>(flag: &'static str, path: &'a Option<PathBuf>) -> Option<files::Named<'a>> {
        path.as_deref().map(|path| (flag, path))
    }
    let inputs = args.input.iter().map(|i| ("--input", i.path.as_path()));
    let read: Vec<_> = inputs.chain(named("--salt", &args.salt)).collect();
    if let Some(path) = args.output.as_ref().filter(|path| ends_in(path, b".npy")) {
        return Err(Failure::usage(format!("--output {}: an answer may hold several arrays", path.display()))
            .hint("write an .npz, which holds them under their names: --output y.npz"));
    }
    if let Some(path) = args.save_input.as_ref().filter(|path| !ends_in(path, ARRAYS_SUFFIX)) {
        return Err(Failure::usage(format!("--save-input {}: expected a name that ends in .npz", path.display())));
    }
    let written =
        [named("--output", &args.output), named("--prove", &args.prove), named("--save-input", &args.save_input)];
    files::can_write(&read, &written.into_iter().flatten().collect::<Vec<_>>())
}

/// What is asked for beside the answer.
struct Asked {
    nonce: Vec<u8>,
    salt: Option<[u8; 32]>,
}

impl Asked {
    /// What flags and request say; they may not contradict each other.
    fn new(request: &Request<'_>, args: &InferArgs) -> Result<Asked, Failure> {
        if request.parameter("grey_prove")? == Some(Value::Bool(false)) {
            return Err(Failure::usage("--prove asks for a proof, but the request says grey_prove: false"));
        }
        let nonce = agreed(request, "grey_nonce", "--nonce", args.nonce.as_ref().map(|n| n.0.clone()))?;
        let nonce = match nonce {
            Some(nonce) => nonce,
            None => random()?.to_vec(),
        };
        let salt = args.salt.as_deref().map(salt_file).transpose()?;
        let salt = agreed(request, "grey_salt", "--salt", salt.map(Vec::from))?;
        let salt = salt.map(|s| {
            let found = s.len();
            s.try_into().map_err(|_| Failure::refused(format!("parameter 'grey_salt' has {found} bytes, expected 32")))
        });
        Ok(Asked { nonce, salt: salt.transpose()? })
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        let mut parameters = vec![("grey_prove", Value::Bool(true)), ("grey_nonce", base64(&self.nonce).into())];
        parameters.extend(self.salt.map(|salt| ("grey_salt", base64(&salt).into())));
        parameters
    }
}

fn agreed(
    request: &Request<'_>,
    parameter: &str,
    flag: &str,
    given: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, Failure> {
    let own = match request.parameter(parameter)? {
        None => return Ok(given),
        Some(Value::String(text)) => text.parse::<Base64>(),
        Some(other) => Err(format!("expected base64, found {}", shown(&other.to_string()))),
    };
    let Base64(own) = own.map_err(|e| Failure::refused(format!("parameter '{parameter}': {e}")))?;
    if given.is_some_and(|given| given != own) {
        return Err(Failure::usage(format!("{flag} and the request's parameter '{parameter}' differ")));
    }
    Ok(Some(own))
}

fn random() -> Result<[u8; NONCE_BYTES], Failure> {
    let mut nonce = [0; NONCE_BYTES];
    // So short a buffer is filled at once, or not at all (getrandom(2)).
    match rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()) {
        Ok(NONCE_BYTES) => Ok(nonce),
        Ok(n) => Err(Failure::unexpected(format!("cannot make a nonce: the system gave {n} random bytes"))),
        Err(e) => Err(Failure::unexpected(format!("cannot make a nonce: {e}"))),
    }
}

/// The answer's proof, with the session whose evidence is made anew over the same nonce.
fn fetch(client: &Client, answer: &Value, nonce: &[u8]) -> Result<(Vec<u8>, SessionBundle), Failure> {
    let member = |name: &str| {
        let found = answer.pointer(&format!("/parameters/{name}")).and_then(Value::as_str);
        found.ok_or_else(|| {
            Failure::unexpected(format!("the node answered without '{name}', though a proof was asked for"))
                .hint("is it a Grey node that makes proofs? see: grey model show MODEL")
        })
    };
    let odd = |what: &str, e: String| Failure::unexpected(format!("the node's {what} cannot be read: {e}"));
    let Base64(proof) = member("grey_proof")?.parse().map_err(|e| odd("proof", e))?;
    // It becomes part of a path, so it may be a name only.
    let session = hex32(member("grey_session")?).map_err(|e| odd("session name (grey_session)", e))?;
    let path = format!("/grey/v1/sessions/{}?nonce={}", hex(&session), base64url(nonce));
    let session = client.get_bytes(&path)?;
    let (session, _) = SessionBundle::parse(&session).map_err(|e| odd("session", e.to_string()))?;
    let bytes = Bundle::new(proof, session.clone()).encode().map_err(|e| odd("proof", e.to_string()))?;
    Ok((bytes, session))
}

/// As a query takes it: base64url without padding.
fn base64url(bytes: &[u8]) -> String {
    base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// What must hold of a proof that is worth keeping, whoever made it.
const EXAMINED: [Check; 7] = [
    Check::WellFormed,
    Check::Signature,
    Check::Outcome,
    Check::InputHash,
    Check::OutputHash,
    Check::Request,
    Check::Nonce,
];

/// Whether the answer is of the model, of the version and to the request that were asked for.
fn answers(client: &Client, answer: &Value, request: &Request<'_>, args: &InferArgs) -> Result<(), Failure> {
    let answered = answer.get("model_version").and_then(Value::as_str);
    let version = args.version.as_ref().map(ToString::to_string).map(|asked| match answered {
        Some(v) if v != asked && means(client, args, &asked, v) => v.to_owned(),
        _ => asked,
    });
    let id = request.id()?;
    let asked = [("model_name", Some(args.model.to_string())), ("model_version", version), ("id", id)];
    for (member, expected) in asked {
        let Some(expected) = expected else { continue };
        let found = match answer.get(member) {
            None | Some(Value::Null) => "none".to_owned(),
            Some(Value::String(found)) if *found == expected => continue,
            // Whole: the difference may stand at the end.
            Some(Value::String(other)) => format!("'{}'", escaped(other)),
            Some(other) => shown(&other.to_string()),
        };
        return Err(lie(format!("{member}: expected '{}', found {found}", escaped(&expected)), "answer", "request"));
    }
    Ok(())
}

/// Whether `label` means `version`, as the node says.
fn means(client: &Client, args: &InferArgs, label: &str, version: &str) -> bool {
    // Most versions are numbers, which no label is.
    if Label::new(label).is_err() {
        return false;
    }
    let shown = client.get(&format!("/grey/v1/models/{}/versions/{label}", args.model));
    shown.is_ok_and(|shown| {
        let has = |l: &Value| l.as_str() == Some(label);
        text(&shown, "version") == version
            && shown.get("labels").and_then(Value::as_array).is_some_and(|l| l.iter().any(has))
    })
}

/// What came is not of what it should be of.
fn lie(why: impl fmt::Display, what: &str, of: &str) -> Failure {
    Failure::unexpected(format!("the node's {what} is not one of this {of}: {why}"))
        .hint("nothing was written; do not rely on the answer")
}

/// Whether the proof is one of this request and this answer. Whom to trust is the verifier's question.
fn examine(
    bundle: &[u8],
    request: &Request<'_>,
    answer: &Answered,
    args: &InferArgs,
    asked: &Asked,
) -> Result<Proof, Failure> {
    let odd = |e: grey_proof::FormatError| Failure::unexpected(format!("the node's proof cannot be read: {e}"));
    let (_, proof, manifest) = Bundle::parse(bundle).map_err(odd)?;
    let known = Known {
        inputs: Some(known(&request.inputs()?)),
        outputs: Some(known(&answer.outputs()?)),
        salt: asked.salt.map(Vec::from),
        nonce: Some(asked.nonce.clone()),
        session_nonce: Some(asked.nonce.clone()),
        request: Some(KnownRequest {
            model_id: Some(args.model.to_string()),
            model_version: answer.json.get("model_version").and_then(Value::as_str).map(str::to_owned),
            ..KnownRequest::default()
        }),
        ..Known::default()
    };
    // At the proof's own time: clocks of two machines may differ, and this file is kept for later.
    let verdict = grey_proof::verify(bundle, &Policy::software(SoftwareKeys::Any), proof.claims().issued_at, &known);
    // Evidence of hardware is not verified here: that takes a policy.
    let of_session = [Check::KeyBinding, Check::Session];
    let of_session = of_session.iter().filter(|_| manifest.measurement.platform() == Platform::Software);
    let examined: Vec<Check> = EXAMINED.iter().chain(of_session).copied().collect();
    match verdict.checks.iter().find(|c| examined.contains(&c.name) && c.result != CheckResult::Pass) {
        None => Ok(proof),
        Some(c) => Err(lie(format!("{}: expected {}, found {}", c.name, c.expected, c.found), "proof", "answer")),
    }
}

/// The bytes of a proof's file: the bundle, or the JSON view.
fn encoded(file: &Path, bundle: &[u8]) -> Result<Vec<u8>, Failure> {
    // No extension: a file may be called `.proof` and no more.
    if file.as_os_str().as_encoded_bytes().ends_with(b".proof") {
        return Ok(bundle.to_vec());
    }
    let view = grey_proof::view(bundle).map_err(|e| Failure::unexpected(e.to_string()))?;
    Ok(format!("{:#}\n", Value::Object(view)).into_bytes())
}

/// What was proven, and how to verify it.
fn told(
    proof: &Proof,
    session: &SessionBundle,
    file: &Path,
    args: &InferArgs,
    asked: &Asked,
    request: &Request<'_>,
) -> String {
    let claims = proof.claims();
    let class = claims.exec.as_ref().map_or_else(String::new, |e| format!(", class {}", e.class.name()));
    let trust = match SoftwareEvidence::parse(&session.evidence.evidence) {
        Ok(e) if session.evidence.platform == Platform::Software => format!("--software-key {}", hex(&e.node_key)),
        _ => format!("--expected-measurement {}", hex(claims.measurement.bytes())),
    };
    let mut command = format!("grey proof verify {} {trust}", quoted_path(file));
    let kept = kept_inputs(args, request);
    for input in kept.iter().flatten() {
        command.push_str(&format!(" --input {input}"));
    }
    if let Some(output) = &args.output {
        command.push_str(&format!(" --output {}", quoted_path(output)));
    }
    let nonce = base64(&asked.nonce);
    command.push_str(&format!(" --nonce {nonce} --session-nonce {nonce}"));
    match (&args.salt, asked.salt) {
        (Some(file), _) if !files::is_standard_input(file) => {
            command.push_str(&format!(" --salt {}", quoted(&format!("@{}", file.display()))));
        }
        (_, Some(salt)) => command.push_str(&format!(" --salt {}", base64(&salt))),
        (_, None) => {}
    }
    let mut out = format!(
        "\nproven: {} version {} answered these inputs with these outputs{class}; task {}\nnonce: {nonce}\nverify with: {command}\n",
        shown(&claims.model_id),
        shown(&claims.model_version),
        task_id_text(&claims.task_id),
    );
    if kept.is_none() {
        let advice = match request {
            Request::Document(_) => "give --input FILE with the same text",
            Request::Arrays(_) => "next time add --save-input FILE.npz",
        };
        out.push_str(&format!("the inputs can be verified only if they are kept: {advice}\n"));
    }
    if args.output.is_none() {
        out.push_str("the outputs can be verified only if they are kept: next time add --output FILE\n");
    }
    out
}

/// What a verifier's `--input` takes for these inputs; none where they cannot be read again.
fn kept_inputs(args: &InferArgs, request: &Request<'_>) -> Option<Vec<String>> {
    if let Some(path) = &args.save_input {
        return Some(vec![quoted_path(path)]);
    }
    let is_read_again = |i: &InputArg| !files::is_standard_input(&i.path);
    let each: Option<Vec<String>> = match request {
        Request::Document(_) => args.input.iter().map(|i| is_read_again(i).then(|| quoted_path(&i.path))).collect(),
        Request::Arrays(tensors) => args
            .input
            .iter()
            .map(|i| {
                let bytes = files::read(&i.path).ok().filter(|_| is_read_again(i))?;
                let name = i.name.as_deref().or(tensors.first().map(Tensor::name))?;
                match (arrays::is_npz(&bytes), arrays::is_npy(&bytes)) {
                    (true, _) => Some(quoted_path(&i.path)),
                    (_, true) => Some(quoted(&format!("{name}={}", i.path.display()))),
                    // A picture: the numbers are not in its file.
                    _ => None,
                }
            })
            .collect(),
    };
    each
}

/// An answer for people.
fn readable(answer: &Value, outputs: &[Tensor]) -> String {
    let mut out = format!("{} version {}\n", shown(&text(answer, "model_name")), shown(&text(answer, "model_version")));
    for output in outputs {
        out.push_str(&format!("{} {} {:?}\n", shown(output.name()), output.dtype(), output.shape()));
        out.push_str(&elements(&numbers(output), output.shape()));
    }
    for (name, value) in answer.get("parameters").and_then(Value::as_object).into_iter().flatten() {
        if !name.starts_with("grey_") {
            out.push_str(&format!("parameter {} = {}\n", shown(name), shown(&value.to_string())));
        }
    }
    out
}

/// Every element as text.
fn numbers(tensor: &Tensor) -> Vec<String> {
    fn each<const N: usize, T: fmt::Debug>(data: &[u8], of: fn([u8; N]) -> T) -> Vec<String> {
        data.as_chunks::<N>().0.iter().map(|b| format!("{:?}", of(*b))).collect()
    }
    let data = tensor.data().to_contiguous();
    match tensor.dtype() {
        DType::Bool => each::<1, _>(&data, |[b]| b != 0),
        DType::Uint8 => each(&data, u8::from_le_bytes),
        DType::Uint16 => each(&data, u16::from_le_bytes),
        DType::Uint32 => each(&data, u32::from_le_bytes),
        DType::Uint64 => each(&data, u64::from_le_bytes),
        DType::Int8 => each(&data, i8::from_le_bytes),
        DType::Int16 => each(&data, i16::from_le_bytes),
        DType::Int32 => each(&data, i32::from_le_bytes),
        DType::Int64 => each(&data, i64::from_le_bytes),
        DType::Fp16 => each(&data, |b| half::f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => each(&data, |b| half::bf16::from_le_bytes(b).to_f32()),
        DType::Fp32 => each(&data, f32::from_le_bytes),
        DType::Fp64 => each(&data, f64::from_le_bytes),
        DType::Bytes => {
            let (mut items, mut rest) = (Vec::new(), &data[..]);
            while let Some((head, tail)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() {
                let Some((item, after)) = tail.split_at_checked(u32::from_le_bytes(*head) as usize) else { break };
                items.push(format!("\"{}\"", shown(&String::from_utf8_lossy(item))));
                rest = after;
            }
            items
        }
    }
}

/// The elements, a line for each of the last dimension; what is too much is counted.
fn elements(flat: &[String], shape: &[u64]) -> String {
    let row = shape.last().and_then(|n| usize::try_from(*n).ok()).unwrap_or(1).max(1);
    let mut out = String::new();
    for elements in flat.chunks(row).take(LINES_MAX) {
        let shown: Vec<&str> = elements.iter().take(ELEMENTS_MAX).map(String::as_str).collect();
        let more = elements.len().saturating_sub(ELEMENTS_MAX);
        let more = if more > 0 { format!(", … {more} more") } else { String::new() };
        out.push_str(&format!("  {}{more}\n", shown.join(", ")));
    }
    let more = flat.len().div_ceil(row).saturating_sub(LINES_MAX);
    if more > 0 {
        out.push_str(&format!("  … {more} more lines; all of it with --json or --output FILE\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_readable() {
        let answer = json!({
            "model_name": "m", "model_version": "1", "parameters": {"grey_proof": "AA==", "k": 1},
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.5, 3.0, -0.0]},
                {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a\u{1b}[31m"]},
                {"name": "n", "datatype": "INT64", "shape": [], "data": [7]},
                {"name": "e", "datatype": "INT64", "shape": [0, 3], "data": []},
            ],
        });
        let outputs = Document::new(Path::new("y"), answer.to_string()).outputs().unwrap();
        assert_eq!(
            readable(&answer, &outputs),
            "m version 1\ny FP32 [2, 2]\n  1.0, 2.5\n  3.0, -0.0\ns BYTES [1]\n  \"a\\u{1b}[31m\"\n\
             n INT64 []\n  7\ne INT64 [0, 3]\nparameter k = 1\n"
        );
        let long = elements(&(0..1000).map(|n: i32| n.to_string()).collect::<Vec<_>>(), &[25, 40]);
        assert_eq!(long.lines().count(), 21);
        assert!(long.starts_with("  0, 1, ") && long.contains("15, … 24 more\n"), "{long}");
        assert!(long.contains("… 5 more lines"), "{long}");
    }

    #[test]
    fn nonces_fit_into_a_query() {
        assert_eq!(base64url(&[0xfb, 0xff, 0xbf, 0xff]), "-_-__w");
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
