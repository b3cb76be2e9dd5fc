//! Inference requests and answers: as text, whose numbers stay as they were written (by way of a 64-bit float
//! some would become others, and their hashes with them), or as arrays, which travel as binary tensors.

use std::{fmt, path::Path};

use grey_core::{ModelId, ModelRef, Payload, Tensor, VersionChoice};
pub(crate) use grey_server::known_tensors as known;
use grey_server::oip::{self, DecodeContext};
use serde::{Deserialize, Deserializer, de::MapAccess, de::Visitor};
use serde_json::{Value, value::RawValue};

use crate::{clock, failure::Failure, files};

/// An object's members as they stand, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(Collect)
    }
}

impl Members<'_> {
    /// The value of `name`; a member that stands twice could mean either.
    fn one(&self, name: &str) -> Result<Option<&RawValue>, String> {
        let mut found = self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| *v);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(format!("it has '{name}' twice")),
            (first, None) => Ok(first),
        }
    }

    /// These members, and `more` in the place of those of the same names.
    fn with<'b>(&self, more: impl IntoIterator<Item = (&'b str, String)>) -> String {
        let more: Vec<(&str, String)> = more.into_iter().collect();
        let replaced = |name: &str| more.iter().any(|(n, _)| *n == name);
        let kept = self.0.iter().filter(|(n, _)| !replaced(n)).map(|(n, v)| (n.as_str(), v.get()));
        let members = kept.chain(more.iter().map(|(n, v)| (*n, v.as_str())));
        let members: Vec<String> = members.map(|(n, v)| format!("{}:{v}", Value::from(n))).collect();
        format!("{{{}}}", members.join(","))
    }
}

/// A request to send.
pub(crate) enum Request<'a> {
    /// A body in JSON, as it stands in its file.
    Document(Document<'a>),
    /// Inputs that stand in files of their own.
    Arrays(Vec<Tensor>),
}

/// A body, and where its JSON ends if tensors follow.
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header_length: Option<usize>,
}

impl Request<'_> {
    /// The body, with these parameters beside its own.
    pub(crate) fn body(&self, parameters: Vec<(&str, Value)>) -> Result<Body, Failure> {
        match self {
            Request::Document(document) if parameters.is_empty() => {
                Ok(Body { bytes: document.text.clone().into_bytes(), header_length: None })
            }
            Request::Document(document) => {
                Ok(Body { bytes: document.with_parameters(parameters)?.into_bytes(), header_length: None })
            }
            Request::Arrays(tensors) => Ok(binary(tensors, parameters)),
        }
    }

    /// A request of this one's inputs, with these parameters and nothing else.
    pub(crate) fn inputs_with(&self, parameters: Vec<(&str, Value)>) -> Result<Body, Failure> {
        match self {
            Request::Document(document) => {
                Ok(Body { bytes: document.inputs_with(parameters)?.into_bytes(), header_length: None })
            }
            Request::Arrays(tensors) => Ok(binary(tensors, parameters)),
        }
    }

    /// The inputs, as a node decodes them.
    pub(crate) fn inputs(&self) -> Result<Vec<Tensor>, Failure> {
        match self {
            Request::Document(document) => document.inputs(),
            Request::Arrays(tensors) => Ok(tensors.clone()),
        }
    }

    /// The request's own id.
    pub(crate) fn id(&self) -> Result<Option<String>, Failure> {
        match self {
            Request::Document(document) => document.id(),
            Request::Arrays(_) => Ok(None),
        }
    }

    /// The request's own parameter.
    pub(crate) fn parameter(&self, name: &str) -> Result<Option<Value>, Failure> {
        match self {
            Request::Document(document) => document.parameter(name),
            Request::Arrays(_) => Ok(None),
        }
    }
}

/// The protocol's binary form (`binary_data` extension).
pub(crate) fn binary(tensors: &[Tensor], parameters: Vec<(&str, Value)>) -> Body {
    let input = |t: &Tensor| {
        let size = serde_json::json!({"binary_data_size": t.data().len()});
        serde_json::json!({"name": t.name(), "datatype": t.dtype().name(), "shape": t.shape(), "parameters": size})
    };
    let inputs: Vec<Value> = tensors.iter().map(input).collect();
    let parameters: serde_json::Map<String, Value> = parameters.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    let mut bytes = serde_json::json!({"inputs": inputs, "parameters": parameters}).to_string().into_bytes();
    let header_length = Some(bytes.len());
    for chunk in tensors.iter().flat_map(|t| t.data().chunks()) {
        bytes.extend_from_slice(chunk);
    }
    Body { bytes, header_length }
}

/// A file with a request, or with an answer.
pub(crate) struct Document<'a> {
    path: &'a Path,
    text: String,
    /// The binary tensors that follow the text.
    tail: Vec<u8>,
}

impl<'a> Document<'a> {
    /// The content of `path`, which is to be text.
    pub(crate) fn of(path: &'a Path, bytes: Vec<u8>) -> Result<Self, Failure> {
        Ok(Document::new(path, files::text(path, bytes)?))
    }

    /// A text that stands for the content of `path`.
    pub(crate) fn new(path: &'a Path, text: String) -> Self {
        Document { path, text, tail: Vec::new() }
    }

    /// The same, with binary tensors behind it.
    pub(crate) fn with_tail(self, tail: Vec<u8>) -> Self {
        Document { tail, ..self }
    }

    fn refused(&self, why: impl fmt::Display) -> Failure {
        Failure::refused(format!("{}: {why}", files::shown(self.path)))
    }

    fn members(&self) -> Result<Members<'_>, Failure> {
        serde_json::from_str(&self.text).map_err(|e| self.refused(format_args!("expected an object in JSON: {e}")))
    }

    /// The text of the list of tensors under `name`.
    fn list(&self, name: &str) -> Result<String, Failure> {
        let members = self.members()?;
        let found = members.one(name).map_err(|why| self.refused(why))?;
        let found = found.ok_or_else(|| {
            let hint = match name {
                "inputs" => "a request looks like {\"inputs\":[{\"name\":…,\"datatype\":…,\"shape\":…,\"data\":…}]}",
                _ => "an answer is what `grey infer --output FILE` writes",
            };
            self.refused(format_args!("it has no '{name}', expected a list of tensors")).hint(hint)
        })?;
        Ok(found.get().to_owned())
    }

    /// A request's id. An empty one is none; one that is no text is for the node to refuse.
    pub(crate) fn id(&self) -> Result<Option<String>, Failure> {
        let members = self.members()?;
        let id = members.one("id").map_err(|why| self.refused(why))?;
        let text = id.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        Ok(text.filter(|id| !id.is_empty()))
    }

    /// A request's own parameter, e.g. `grey_nonce`.
    pub(crate) fn parameter(&self, name: &str) -> Result<Option<Value>, Failure> {
        let members = self.members()?;
        let Some(raw) = members.one("parameters").map_err(|why| self.refused(why))? else { return Ok(None) };
        let parameters: Members<'_> =
            serde_json::from_str(raw.get()).map_err(|e| self.refused(format_args!("'parameters': {e}")))?;
        let found = parameters.one(name).map_err(|why| self.refused(format_args!("'parameters': {why}")))?;
        found.map(|raw| serde_json::from_str(raw.get()).map_err(|e| self.refused(e))).transpose()
    }

    /// The request with these parameters beside, or instead of, its own.
    pub(crate) fn with_parameters(&self, more: Vec<(&str, Value)>) -> Result<String, Failure> {
        let members = self.members()?;
        let own = members.one("parameters").map_err(|why| self.refused(why))?.map_or("{}", RawValue::get);
        let own: Members<'_> =
            serde_json::from_str(own).map_err(|e| self.refused(format_args!("'parameters': {e}")))?;
        let parameters = own.with(more.into_iter().map(|(n, v)| (n, v.to_string())));
        Ok(members.with([("parameters", parameters)]))
    }

    /// A request of this one's inputs, with these parameters and nothing else.
    pub(crate) fn inputs_with(&self, parameters: Vec<(&str, Value)>) -> Result<String, Failure> {
        let parameters = Members(Vec::new()).with(parameters.into_iter().map(|(n, v)| (n, v.to_string())));
        Ok(format!("{{\"inputs\":{},\"parameters\":{parameters}}}", self.list("inputs")?))
    }

    /// A request's inputs, as a node decodes them.
    pub(crate) fn inputs(&self) -> Result<Vec<Tensor>, Failure> {
        self.decode("inputs", "input")
    }

    /// An answer's outputs. They are written as inputs are.
    pub(crate) fn outputs(&self) -> Result<Vec<Tensor>, Failure> {
        self.decode("outputs", "output")
    }

    fn decode(&self, list: &str, one: &str) -> Result<Vec<Tensor>, Failure> {
        let mut body = format!("{{\"inputs\":{}}}", self.list(list)?).into_bytes();
        let header_length = (!self.tail.is_empty()).then_some(body.len());
        body.extend_from_slice(&self.tail);
        let body = Payload::from(body);
        // The decoder wants a name, and never looks at it.
        let id = ModelId::new("file").map_err(|e| Failure::unexpected(e.message()))?;
        let model = ModelRef { id, version: VersionChoice::Latest };
        let cx = DecodeContext {
            model: &model,
            header_length,
            tenant: None,
            signature: None,
            prove: None,
            now: clock::now(),
        };
        let decoded = oip::decode(cx, &body, &mut |_| Ok(())).map_err(|e| {
            let message = e.message();
            // The decoder knows inputs only.
            let said = match message.strip_prefix("input") {
                Some(rest) if list != "inputs" => format!("{one}{rest}"),
                _ => message.to_owned(),
            };
            let failure = self.refused(said);
            let binary = message.contains("binary_data_size");
            if binary { failure.hint("tensors must be in JSON here, with 'data'") } else { failure }
        })?;
        Ok(decoded.request.inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document<'static> {
        Document::new(Path::new("x.json"), text.to_owned())
    }

    #[test]
    fn numbers_keep_their_digits() {
        // By way of a 64-bit float this would be rounded twice.
        let number = "1.00000017881393432617187499";
        let d = document(&format!(
            r#"{{"id":"a","inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":[{number}]}}],
                "parameters":{{"k":1.0,"grey_prove":true}}}}"#
        ));
        let body = d.with_parameters(vec![("grey_nonce", "AA==".into())]).unwrap();
        assert!(body.contains(number) && body.contains(r#""k":1.0,"grey_prove":true,"grey_nonce":"AA==""#), "{body}");
        assert_eq!(d.inputs().unwrap()[0].data().to_contiguous()[..], 1.000_000_1_f32.to_le_bytes());
        let replay = d.inputs_with(vec![("grey_proof", "AA==".into())]).unwrap();
        assert!(replay.ends_with(r#""parameters":{"grey_proof":"AA=="}}"#) && !replay.contains("\"id\""), "{replay}");
        assert_eq!(d.parameter("grey_prove").unwrap(), Some(Value::Bool(true)));
        assert_eq!(d.parameter("grey_salt").unwrap(), None);
        assert_eq!(d.id().unwrap().as_deref(), Some("a"));
        assert_eq!(document(r#"{"id":null}"#).id().unwrap(), None);
    }

    #[test]
    fn what_a_file_asks_of_a_node_does_not_matter_for_its_tensors() {
        let asks = r#"{"grey_prove":false,"grey_nonce":"AA==","grey_salt":3,"sequence_id":7}"#;
        let d = document(&format!(
            r#"{{"inputs":[{{"name":"x","datatype":"BOOL","shape":[2],"data":[true,false]}}],"parameters":{asks}}}"#
        ));
        assert_eq!(d.inputs().unwrap()[0].data().to_contiguous()[..], [1, 0]);
    }

    #[test]
    fn mistakes_name_file_and_tensor() {
        let message = |text: &str| document(text).outputs().unwrap_err().message;
        assert_eq!(message(r#"{"inputs":[]}"#), "x.json: it has no 'outputs', expected a list of tensors");
        assert_eq!(message(r#"{"outputs":[],"outputs":[]}"#), "x.json: it has 'outputs' twice");
        assert!(message("[]").starts_with("x.json: expected an object in JSON: "));
        let y = r#"{"outputs":[{"name":"y","datatype":"INT8","shape":[1],"data":[300]}]}"#;
        assert!(message(y).starts_with("x.json: output 'y': element 0 is 300"), "{}", message(y));
        let y = r#"{"outputs":[{"name":"y","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1}}]}"#;
        let f = document(y).outputs().unwrap_err();
        assert!(f.message.starts_with("x.json: output 'y': binary_data_size is 1") && f.hints.len() == 1, "{f:?}");
    }
}
