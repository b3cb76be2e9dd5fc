//! Decoding an inference's answer. The server is not trusted: nothing is allocated by a length that it
//! states, and whatever does not fit together is refused.

use std::{borrow::Cow, collections::HashSet, fmt, marker::PhantomData};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use grey_core::{
    AnswerProof, DType, Label, ModelId, Parameter, Parameters, Payload, RANK_MAX, Tensor, UnknownDType, Version, oip,
};
use grey_proof::PROOF_BYTES_MAX;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{Error, InferCall, Result, text::shown};

/// Longest JSON of an answer, bytes: so many outputs with so many dimensions and parameters are far below.
const HEAD_BYTES_MAX: usize = 16 << 20;

/// The answer to an inference.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The request's id, if it had one.
    pub id: Option<String>,
    /// The model that ran.
    pub model: ModelId,
    /// The version that ran; `None` only of servers that have no versions.
    pub version: Option<Version>,
    /// The outputs, in the order asked for (else the model's).
    pub outputs: Vec<Tensor>,
    /// The answer's parameters that are truth values, numbers of 64 bits, or text; others are left out.
    pub parameters: Parameters,
    /// The proof, where one was asked for.
    pub proof: Option<AnswerProof>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    model_name: Text<'a>,
    #[serde(default, borrow)]
    model_version: Option<Text<'a>>,
    #[serde(default, borrow)]
    id: Option<Text<'a>>,
    #[serde(default)]
    parameters: Option<Given>,
    #[serde(borrow)]
    outputs: List<Output<'a>, { oip::OUTPUTS_MAX }>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    datatype: Text<'a>,
    shape: List<u64, RANK_MAX>,
    #[serde(default)]
    parameters: Option<Given>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

/// Shares the answer's memory, unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A list that stops at its limit.
struct List<T, const MOST: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Elements<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Elements<T, MOST> {
            type Value = List<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if out.len() == MOST {
                        return Err(A::Error::custom(format_args!("a list of more than {MOST}")));
                    }
                    out.push(element);
                }
                Ok(List(out))
            }
        }
        d.deserialize_seq(Elements(PhantomData))
    }
}

/// Parameters that are scalars.
#[derive(Default)]
struct Given(Parameters);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Given, A::Error> {
                let (mut out, mut given) = (Parameters::new(), 0usize);
                while let Some(key) = map.next_key::<String>()? {
                    if given == oip::PARAMETERS_MAX {
                        return Err(A::Error::custom(format_args!("more than {} parameters", oip::PARAMETERS_MAX)));
                    }
                    given += 1;
                    if let Scalar(Some(value)) = map.next_value()? {
                        out.insert(key, value);
                    }
                }
                Ok(Given(out))
            }
        }
        d.deserialize_map(Entries)
    }
}

/// A parameter's value; `None` if it is none that a parameter has.
struct Scalar(Option<Parameter>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> std::result::Result<Scalar, E> {
                Ok(Scalar(None))
            }

            fn visit_bool<E>(self, b: bool) -> std::result::Result<Scalar, E> {
                Ok(Scalar(Some(Parameter::Bool(b))))
            }

            fn visit_i64<E>(self, n: i64) -> std::result::Result<Scalar, E> {
                Ok(Scalar(Some(Parameter::Int(n))))
            }

            fn visit_u64<E>(self, n: u64) -> std::result::Result<Scalar, E> {
                Ok(Scalar(i64::try_from(n).ok().map(Parameter::Int)))
            }

            fn visit_f64<E>(self, n: f64) -> std::result::Result<Scalar, E> {
                Ok(Scalar(Some(Parameter::Float(n))))
            }

            fn visit_str<E>(self, s: &str) -> std::result::Result<Scalar, E> {
                Ok(Scalar(Some(Parameter::Text(s.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Scalar, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar(None))
            }
        }
        d.deserialize_any(Any)
    }
}

/// Reads an answer. The tensors share the memory of `body`.
///
/// # Arguments
/// - `header_length`: value of the answer's header [`oip::HEADER_LENGTH_HEADER`], the bytes of JSON at the front of
///   `body`; `None` if there is none, so that all is JSON.
///
/// # Errors
/// [`Error::Answer`], which says what does not fit.
pub fn decode(header_length: Option<u64>, body: &Payload) -> Result<Answer> {
    let wrong = |why: String| Error::Answer(why);
    let json_length = match header_length {
        None => body.len(),
        Some(stated) => usize::try_from(stated).ok().filter(|n| *n <= body.len()).ok_or_else(|| {
            let header = oip::HEADER_LENGTH_HEADER;
            wrong(format!("{header} says {stated} bytes of JSON, but the answer has {}", body.len()))
        })?,
    };
    if json_length > HEAD_BYTES_MAX {
        return Err(wrong(format!("it has {json_length} bytes of JSON, at most {HEAD_BYTES_MAX} are read")));
    }
    let mut rest = body.cursor();
    let json = rest.take(json_length).unwrap_or_default().to_contiguous();
    let head: Head<'_> = object(&json).map_err(|why| wrong(format!("it is no inference answer: {why}")))?;

    let mut parameters = head.parameters.unwrap_or_default().0;
    let proof = proof(&mut parameters)?;
    let model = ModelId::new(&head.model_name.0).map_err(|e| wrong(format!("model_name: {e}")))?;
    let version = head.model_version.filter(|v| !v.0.is_empty());
    let version = version.map(|v| Version::new(&v.0)).transpose().map_err(|e| wrong(format!("model_version: {e}")))?;
    let mut names = HashSet::new();
    let mut outputs = Vec::new();
    for given in head.outputs.0 {
        let output = output(given, &mut rest)?;
        if !names.insert(output.name().to_owned()) {
            return Err(wrong(format!("output '{}' is there twice", shown(output.name()))));
        }
        outputs.push(output);
    }
    if rest.left() > 0 {
        return Err(wrong(format!("{} bytes of it belong to no output", rest.left())));
    }
    Ok(Answer { id: head.id.map(|t| t.0.into_owned()), model, version, outputs, parameters, proof })
}

fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> std::result::Result<T, String> {
    let text = std::str::from_utf8(json).map_err(|e| format!("its JSON is not UTF-8: {e}"))?;
    // serde would take an array for a struct's fields.
    if !text.trim_start().starts_with('{') {
        return Err("expected an object in JSON".into());
    }
    serde_json::from_str(text).map_err(|e| shown_error(&e))
}

/// serde repeats texts that it did not expect, however long.
fn shown_error(e: &serde_json::Error) -> String {
    const WHY_CHARS_MAX: usize = 300;
    e.to_string().chars().take(WHY_CHARS_MAX).flat_map(char::escape_debug).collect()
}

fn output(given: Output<'_>, rest: &mut grey_core::Cursor<'_>) -> Result<Tensor> {
    let name = given.name.0;
    let wrong = |why: String| Error::Answer(format!("output '{}': {why}", shown(&name)));
    if name.len() > oip::TENSOR_NAME_BYTES_MAX {
        return Err(wrong(format!("its name has {} bytes", name.len())));
    }
    let dtype: DType = given.datatype.0.parse().map_err(|e: UnknownDType| wrong(e.to_string()))?;
    let size = given.parameters.as_ref().and_then(|p| p.0.get("binary_data_size"));
    let size = match (size, given.data) {
        (Some(_), Some(_)) => return Err(wrong("it has both 'data' and 'binary_data_size'".into())),
        (None, Some(_)) => return Err(wrong("it came as JSON, though binary data was asked for".into())),
        (Some(Parameter::Int(n)), None) => usize::try_from(*n).ok(),
        (_, None) => None,
    };
    let size = size.ok_or_else(|| wrong("it has no 'binary_data_size' that is a number of bytes".into()))?;
    let data = rest.take(size).ok_or_else(|| {
        wrong(format!("binary_data_size is {size}, but only {} bytes of the answer are left", rest.left()))
    })?;
    Tensor::new(&*name, dtype, given.shape.0, data).map_err(|e| Error::Answer(e.message().to_owned()))
}

/// Takes the proof out of the parameters.
fn proof(parameters: &mut Parameters) -> Result<Option<AnswerProof>> {
    let wrong = |why: &str| Error::Answer(format!("its proof cannot be read: {why}"));
    let (proof, session) = match (parameters.remove("grey_proof"), parameters.remove("grey_session")) {
        (None, None) => return Ok(None),
        (Some(Parameter::Text(proof)), Some(Parameter::Text(session))) => (proof, session),
        _ => return Err(wrong("expected the texts grey_proof and grey_session")),
    };
    if proof.len() / 4 * 3 > PROOF_BYTES_MAX + 3 {
        return Err(wrong(&format!("it has {} bytes of base64", proof.len())));
    }
    let proof = STANDARD.decode(proof).map_err(|e| wrong(&format!("grey_proof is not base64: {e}")))?;
    let mut digest = [0; 32];
    let decoded = base16ct::lower::decode(&session, &mut digest).is_ok_and(|d| d.len() == 32);
    if !decoded {
        return Err(wrong("grey_session is not 64 digits of lower-case hex"));
    }
    Ok(Some(AnswerProof { proof: proof.into(), session: digest }))
}

impl Answer {
    /// Refuses an answer that is not one to `call`.
    pub(crate) fn check(&self, call: &InferCall) -> Result<()> {
        let wrong = |what: &str, expected: &str, found: &str| {
            Err(Error::Answer(format!(
                "it is not one to this request: {what}: expected '{}', found '{}'",
                shown(expected),
                shown(found)
            )))
        };
        if self.model != call.model {
            return wrong("model_name", call.model.as_str(), self.model.as_str());
        }
        // What is no number may be a label: which version it means is the node's to say.
        if let Some(asked) = &call.version
            && self.version.as_ref() != Some(asked)
            && Label::new(asked.as_str()).is_err()
        {
            return wrong("model_version", asked.as_str(), self.version.as_ref().map_or("", Version::as_str));
        }
        if !call.id.is_empty() && self.id.as_deref() != Some(call.id.as_str()) {
            return wrong("id", &call.id, self.id.as_deref().unwrap_or_default());
        }
        let names = || self.outputs.iter().map(Tensor::name);
        if !call.outputs.is_empty() && !names().eq(call.outputs.iter().map(String::as_str)) {
            return wrong("outputs", &call.outputs.join(", "), &names().collect::<Vec<_>>().join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(head: &str, tail: &[u8]) -> Result<Answer> {
        let body = Payload::from([head.as_bytes(), tail].concat());
        decode(Some(head.len() as u64), &body)
    }

    const GOOD: &str = r#"{"model_name":"m","model_version":"2","id":"a\n","parameters":{"k":1,"o":{"x":[1]},"n":null},
        "outputs":[{"name":"y","datatype":"INT16","shape":[1,2],"parameters":{"binary_data_size":4}},
                   {"name":"s","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}]}"#;

    #[test]
    fn good_answers_are_read_without_a_copy() {
        let tail = [&[1, 2, 3, 4][..], &[2, 0, 0, 0, b'h', b'i']].concat();
        let a = read(GOOD, &tail).unwrap();
        assert_eq!((a.id.as_deref(), a.model.as_str(), a.version.unwrap().as_str()), (Some("a\n"), "m", "2"));
        assert_eq!(a.parameters, Parameters::from([("k".to_owned(), Parameter::Int(1))]));
        assert_eq!((a.outputs[0].shape(), a.outputs[1].data().len()), (&[1, 2][..], 6));
        assert!(a.proof.is_none());
    }

    #[test]
    fn lies_are_named() {
        let tail = [1, 2, 3, 4, 2, 0, 0, 0, b'h', b'i'];
        let one = |output: &str, tail: &[u8]| {
            let head = format!(r#"{{"model_name":"m","outputs":[{output}]}}"#);
            read(&head, tail).unwrap_err().to_string()
        };
        for (found, says) in [
            (read(GOOD, &tail[..9]).unwrap_err().to_string(), "output 's': binary_data_size is 6, but only 5 bytes"),
            (read(GOOD, &[&tail[..], &[0]].concat()).unwrap_err().to_string(), "1 bytes of it belong to no output"),
            (read("[]", &[]).unwrap_err().to_string(), "expected an object in JSON"),
            (read("", &[]).unwrap_err().to_string(), "expected an object in JSON"),
            (
                read("{\"model_name\":\"../m\",\"outputs\":[]}", &[]).unwrap_err().to_string(),
                "model_name: invalid model name",
            ),
            (
                decode(Some(9), &Payload::from(vec![b'{'; 8])).unwrap_err().to_string(),
                "says 9 bytes of JSON, but the answer has 8",
            ),
            (decode(Some(u64::MAX), &Payload::default()).unwrap_err().to_string(), "says 18446744073709551615 bytes"),
            (one(r#"{"name":"y","datatype":"INT16","shape":[1],"data":[1]}"#, &[]), "it came as JSON"),
            (one(r#"{"name":"y","datatype":"INT16","shape":[1]}"#, &[]), "no 'binary_data_size'"),
            (
                one(r#"{"name":"y","datatype":"INT16","shape":[1],"parameters":{"binary_data_size":-1}}"#, &[]),
                "no 'binary_data_size'",
            ),
            (
                one(r#"{"name":"y","datatype":"INT16","shape":[9],"parameters":{"binary_data_size":2}}"#, &[0; 2]),
                "expected 18 bytes",
            ),
            (
                one(
                    r#"{"name":"y","datatype":"INT16","shape":[18446744073709551615,2],"parameters":{"binary_data_size":2}}"#,
                    &[0; 2],
                ),
                "more elements than can exist",
            ),
            (
                one(r#"{"name":"y","datatype":"INT16","shape":[-1],"parameters":{"binary_data_size":2}}"#, &[0; 2]),
                "it is no inference answer",
            ),
            (
                one(r#"{"name":"y","datatype":"COMPLEX","shape":[1],"parameters":{"binary_data_size":2}}"#, &[0; 2]),
                "unknown datatype 'COMPLEX'",
            ),
            (
                one(r#"{"name":"y","datatype":"BOOL","shape":[1],"parameters":{"binary_data_size":1}}"#, &[2]),
                "neither 0 nor 1",
            ),
        ] {
            assert!(found.contains(says), "{found}\n should say {says}");
        }
        let twice = r#"{"name":"y","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":1}}"#;
        assert!(one(&format!("{twice},{twice}"), &[1, 2]).contains("output 'y' is there twice"));
        let many = vec![twice; oip::OUTPUTS_MAX + 1].join(",");
        assert!(one(&many, &[]).contains("a list of more than 1024"));
        let long = format!("\"{}\"", "x".repeat(100_000));
        assert!(one(&long, &[]).len() < 1000);
    }

    #[test]
    fn proofs_are_taken_out() {
        let with = |parameters: &str| {
            read(&format!(r#"{{"model_name":"m","outputs":[],"parameters":{{{parameters}}}}}"#), &[])
        };
        let session = "ab".repeat(32);
        let a = with(&format!(r#""grey_proof":"AAE=","grey_session":"{session}""#)).unwrap();
        assert_eq!(a.proof.unwrap(), AnswerProof { proof: vec![0, 1].into(), session: [0xab; 32] });
        assert!(a.parameters.is_empty());
        for bad in [
            r#""grey_proof":"AAE=""#.to_owned(),
            r#""grey_proof":1,"grey_session":2"#.to_owned(),
            format!(r#""grey_proof":"?","grey_session":"{session}""#),
            r#""grey_proof":"AAE=","grey_session":"../x""#.to_owned(),
            format!(r#""grey_proof":"{}","grey_session":"{session}""#, "A".repeat(1 << 20)),
        ] {
            assert!(with(&bad).unwrap_err().to_string().starts_with("its proof cannot be read"), "{bad}");
        }
    }

    #[test]
    fn answers_to_something_else_are_refused() {
        let answer = read(r#"{"model_name":"m","model_version":"2","id":"a","outputs":[]}"#, &[]).unwrap();
        let call = || InferCall::new(ModelId::new("m").unwrap(), vec![]);
        answer.check(&call()).unwrap();
        answer.check(&InferCall { version: Some(Version::new("stable").unwrap()), ..call() }).unwrap();
        let says = |c: InferCall| answer.check(&c).unwrap_err().to_string();
        assert!(
            says(InferCall::new(ModelId::new("n").unwrap(), vec![])).contains("model_name: expected 'n', found 'm'")
        );
        assert!(says(InferCall { version: Some(Version::new("1").unwrap()), ..call() }).contains("model_version"));
        assert!(says(InferCall { id: "b".into(), ..call() }).contains("id: expected 'b', found 'a'"));
        assert!(says(InferCall { outputs: vec!["y".into()], ..call() }).contains("outputs: expected 'y', found ''"));
    }

    proptest! {
        /// Any bytes are read or refused; what is read keeps its promises.
        #[test]
        fn any_bytes(cut in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(Some(u64::from(cut)), &Payload::from(body));
        }

        /// An answer with any byte changed is read or refused.
        #[test]
        fn any_change(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut body = [GOOD.as_bytes(), &[1, 2, 3, 4, 2, 0, 0, 0, b'h', b'i']].concat();
            let at = at.index(body.len());
            body[at] = to;
            if let Ok(a) = decode(Some(GOOD.len() as u64), &Payload::from(body)) {
                prop_assert!(a.outputs.len() <= 2);
            }
        }
    }
}
