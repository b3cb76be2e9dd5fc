use std::time::Duration;

use bytes::Bytes;
use grey_core::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn model() -> ModelRef {
    ModelRef { id: ModelId::new("m").unwrap(), version: VersionChoice::Latest }
}

fn run(header_length: Option<usize>, body: impl Into<Payload>) -> Result<Decoded> {
    within(&mut |_| Ok(()), header_length, body)
}

fn within(budget: &mut Budget<'_>, header_length: Option<usize>, body: impl Into<Payload>) -> Result<Decoded> {
    let model = model();
    let now = crate::clock::now();
    let cx = DecodeContext { model: &model, header_length, tenant: None, signature: None, prove: None, now };
    decode(cx, &body.into(), budget)
}

fn text(body: &str) -> Result<Decoded> {
    run(None, body.as_bytes().to_vec())
}

fn response(outputs: Vec<Tensor>) -> InferResponse {
    InferResponse {
        id: "7".into(),
        model: ModelId::new("m").unwrap(),
        version: Version::new("1").unwrap(),
        outputs,
        parameters: Parameters::from([("k".into(), Parameter::Bool(true))]),
        proof: None,
        queue_time: Duration::ZERO,
        execute_time: Duration::ZERO,
    }
}

/// Turns an answer into the request that sends the same tensors.
fn as_request(e: &Encoded) -> (Option<usize>, Vec<u8>) {
    let all: Vec<u8> = e.chunks.iter().flat_map(|c| c.to_vec()).collect();
    assert_eq!(all.len(), e.len);
    let cut = e.header_length.unwrap_or(all.len());
    let json = String::from_utf8(all[..cut].to_vec()).unwrap();
    // Replaced as text: parsing into values and back would change floats.
    let json = json.replacen("\"outputs\":", "\"inputs\":", 1);
    let mut body = json.clone().into_bytes();
    body.extend_from_slice(&all[cut..]);
    (e.header_length.map(|_| json.len()), body)
}

fn tensor(binary_only: bool) -> impl Strategy<Value = Tensor> {
    (prop::sample::select(DType::ALL.to_vec()), prop::collection::vec(0u64..4, 0..4)).prop_flat_map(
        move |(dtype, shape)| {
            let n = element_count(&shape).unwrap();
            let data = match dtype.size() {
                Some(size) => prop::collection::vec(any::<u8>(), n * size).boxed(),
                None => prop::collection::vec(any::<String>(), n)
                    .prop_map(|s| {
                        s.iter().flat_map(|s| [&(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()).collect()
                    })
                    .boxed(),
            };
            data.prop_map(move |mut data: Vec<u8>| {
                if dtype == DType::Bool {
                    data.iter_mut().for_each(|b| *b &= 1);
                }
                if !binary_only && dtype.is_float() {
                    // JSON holds finite numbers only: clear the exponent's top bit.
                    let size = dtype.size().unwrap();
                    data.iter_mut().skip(size - 1).step_by(size).for_each(|b| *b &= 0b1011_1111);
                }
                Tensor::new("x\"é", dtype, shape.clone(), data).unwrap()
            })
        },
    )
}

proptest! {
    #[test]
    fn json_round_trips(t in tensor(false)) {
        let (header, body) = as_request(&encode(&response(vec![t.clone()]), &AnswerOptions::default()).unwrap());
        prop_assert_eq!(header, None);
        let d = run(header, body).unwrap();
        prop_assert_eq!(d.request.inputs, [t]);
        prop_assert_eq!(d.request.id, "7");
    }

    #[test]
    fn binary_round_trips_and_chunks_do_not_matter(a in tensor(true), b in tensor(true), cuts in prop::collection::vec(1usize..40, 0..20)) {
        let (a, b) = (a.renamed("a"), b.renamed("b"));
        let options = AnswerOptions { binary: true, ..Default::default() };
        let (header, body) = as_request(&encode(&response(vec![a.clone(), b.clone()]), &options).unwrap());
        let mut asked = 0;
        let whole = within(&mut |n| { asked += n; Ok(()) }, header, body.clone()).unwrap();
        prop_assert_eq!(&whole.request.inputs, &[a, b]);
        prop_assert!(asked < 200, "names and parameters, no tensors: {}", asked);
        let mut rest = Bytes::from(body);
        let mut parts = Vec::new();
        for n in cuts {
            parts.push(rest.split_to(n.min(rest.len())));
        }
        parts.push(rest);
        let cut = run(header, parts.into_iter().collect::<Payload>()).unwrap();
        prop_assert_eq!(cut.request.inputs, whole.request.inputs);
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), header in prop::option::of(0usize..320)) {
        // With header 0 there is no signature, which is an error as well.
        prop_assert!(run(header, body).is_err());
    }

    #[test]
    fn arbitrary_data_never_panics(data in r#"[\[\]{}0-9eE.,"\\ntrue -]{0,40}"#, dtype in prop::sample::select(DType::ALL.to_vec())) {
        let body = format!(r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"{dtype}","data":{data}}}]}}"#);
        if let Ok(d) = text(&body) {
            prop_assert_eq!(d.request.inputs[0].shape(), [2]);
        }
    }
}

#[test]
fn key_order_does_not_matter() {
    let d = text(
        r#"{"outputs":[{"parameters":{"binary_data":true},"name":"y"}],"inputs":[{"data":[[1],[2]],"datatype":"INT32","shape":[2,1],"name":"x"}],"id":"a"}"#,
    )
    .unwrap();
    assert_eq!(d.request.inputs[0].data().to_contiguous()[..], [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!((d.request.outputs, d.request.id), (vec!["y".to_owned()], "a".to_owned()));
    assert!(d.answer.is_binary("y") && !d.answer.is_binary("z"));
}

fn input(extra: Value) -> String {
    let mut x = json!({"name": "x", "shape": [2], "datatype": "UINT8", "data": [1, 2]});
    for (k, v) in extra.as_object().unwrap() {
        if v.is_null() {
            x.as_object_mut().unwrap().remove(k);
        } else {
            x[k] = v.clone();
        }
    }
    json!({"inputs": [x]}).to_string()
}

fn names(n: usize) -> Value {
    (0..n).map(|i| (format!("p{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn bad_requests_are_refused_with_reasons() {
    for (body, says) in [
        ("".to_owned(), "empty"),
        ("nope".into(), "expected an object"),
        ("[1]".into(), "array"),
        ("[".repeat(200_000), "it is an array, expected an object"),
        (format!("{{\"inputs\":{}", "[".repeat(200_000)), "it is nested deeper than 128 levels at byte 138"),
        (
            format!("{{\"parameters\":{{\"a\":{}", "[".repeat(200_000)),
            "it is nested deeper than 128 levels at byte 146",
        ),
        (format!("{{\"inputs\":[{}", "{\"a\":".repeat(200_000)), "it is nested deeper than 128 levels at byte"),
        (
            input(json!({})).replace("[1,2]", &format!("{}{}", "[".repeat(60), "]".repeat(60))),
            "nested deeper than the 1 dim",
        ),
        ("{".into(), "EOF while parsing an object at line 1 column 1"),
        (input(json!({}))[..20].into(), "EOF while parsing"),
        (input(json!({}))[..input(json!({})).len() - 1].into(), "EOF while parsing an object at line 1"),
        ("{\"inputs\":[{\"name\":\"x".into(), "EOF while parsing a string at line 1 column 21"),
        ("{}".into(), "no 'inputs'"),
        (r#"{"inputs":null}"#.into(), "no 'inputs'"),
        (r#"{"inputs":[[1]]}"#.into(), "inputs[0]"),
        (r#"{"inputs":[{"shape":[1]}]}"#.into(), "missing field"),
        (r#"{"inputs":[],"inputs":[]}"#.into(), "duplicate field"),
        (input(json!({})).replace("[1,2]", "[NaN]"), "(JSON has no NaN or Infinity: send such values as binary data)"),
        (input(json!({})).replace("[1,2]", "[Infinity]"), "send such values as binary data"),
        (input(json!({})).replace("[1,2]", "[1,-Infinity]"), "send such values as binary data"),
        (r#"{"inputs":{"a":1}}"#.into(), "invalid type: map, expected a list of inputs"),
        (json!({"inputs": "y".repeat(5000)}).to_string(), "text, expected a list of inputs at line 1"),
        (
            json!({"inputs": ["y".repeat(5000)]}).to_string(),
            "inputs[0] is not a valid inference request in JSON: expected",
        ),
        (
            json!({"inputs": [], "outputs": ["y".repeat(5000)]}).to_string(),
            "outputs[0] is not a valid inference request",
        ),
        (json!({"inputs": vec![1; 1025]}).to_string(), "more than 1024 inputs at line 1 column"),
        (json!({"inputs": [], "outputs": vec![1; 1025]}).to_string(), "more than 1024 outputs at line 1 column"),
        (
            json!({"inputs": [], "parameters": names(1025)}).to_string(),
            "'parameters' of the body: more than 1024 parameters",
        ),
        (input(json!({"parameters": names(1025)})), "'parameters' of inputs[0]: more than 1024 parameters"),
        (input(json!({"name": "n".repeat(4097)})), "inputs[0] has a name of 4097 bytes, at most 4096 are taken"),
        (input(json!({"parameters": "p".repeat(5000)})), "text, expected an object of parameters"),
        (input(json!({"shape": ["s".repeat(5000)]})), "text, expected an integer"),
        (input(json!({"shape": [u64::MAX]})), "18446744073709551615, expected an integer of 64 bits"),
        (input(json!({"shape": [1u64 << 62]})), "the shape [4611686018427387904] needs 4611686018427387904"),
        (r#"{"inputs":[]} tail"#.into(), "Inference-Header-Content-Length"),
        (input(json!({"shape": [-1]})), "negative dimension -1"),
        (input(json!({"shape": [1u64 << 62, 8]})), "more elements than can exist"),
        (input(json!({"shape": [1.5]})), "inputs[0]"),
        (
            input(json!({"shape": vec![1; 65]})),
            "inputs[0] is not a valid inference request in JSON: more than 64 dimensions",
        ),
        (input(json!({"datatype": "FP31"})), "unknown datatype 'FP31'"),
        (input(json!({"data": [1, 300]})), "element 1 is 300, out of the range of UINT8 (0 to 255)"),
        (input(json!({"data": [1, "2"]})), "element 1 is text"),
        (input(json!({"data": [1]})), "needs 2"),
        (input(json!({"data": null})), "neither"),
        (input(json!({})).replace("[1,2]", "null"), "single value"),
        (input(json!({"data": [1, null]})), "element 1 is null"),
        (input(json!({"parameters": {"binary_data_size": 2}})), "both"),
        (
            input(json!({"data": null, "parameters": {"binary_data_size": 2}})),
            "input 'x': binary_data_size is 2, but only 0 bytes of the body are left",
        ),
        (
            input(json!({"data": null, "parameters": {"binary_data_size": -2}})),
            "binary_data_size is -2, expected a number of bytes",
        ),
        (
            input(json!({"data": null, "parameters": {"binary_data_size": [2]}})),
            "binary_data_size is an array, expected a number of bytes",
        ),
        (
            input(json!({"data": null, "parameters": {"binary_data_size": u64::MAX}})),
            "binary_data_size is 18446744073709551615, but only 0 bytes",
        ),
        (r#"{"inputs":[],"parameters":{"timeout":-1}}"#.into(), "microseconds"),
        (r#"{"inputs":[],"parameters":{"a":[1]}}"#.into(), "parameter 'a': expected true, false, text or a number"),
        (r#"{"inputs":[],"parameters":{"a":{"b":1}}}"#.into(), "parameter 'a': expected true, false, text or a number"),
        (r#"{"inputs":[],"parameters":{"a":[1]}}"#.into(), "parameter 'a': expected true, false, text or a number"),
        (r#"{"inputs":[],"parameters":{"a":18446744073709551615}}"#.into(), "parameter 'a'"),
        (r#"{"inputs":[],"parameters":{"binary_data_output":"yes"}}"#.into(), "is \"yes\", expected true or false"),
        (r#"{"inputs":[],"parameters":{"tenant":7}}"#.into(), "is 7, expected text"),
        (r#"{"inputs":[],"parameters":{"tenant":"../x"}}"#.into(), "invalid tenant"),
    ] {
        let e = text(&body).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        assert!(e.message().contains(says) && e.message().len() < 600, "{e} should say {says}");
    }
    let twice = r#"{"name":"x","shape":[0],"datatype":"INT8","data":[]}"#;
    let e = text(&format!(r#"{{"inputs":[{twice},{twice}]}}"#)).unwrap_err();
    assert_eq!(e.message(), "input 'x' is given twice");
    let e = run(None, b"{\"inputs\":\"\xff\"}".to_vec()).unwrap_err();
    assert!(e.message().contains("not UTF-8: invalid at byte 11"), "{e}");
}

#[test]
fn lying_sizes_are_refused_by_name() {
    let json = input(json!({"data": null, "parameters": {"binary_data_size": 2}}));
    let body = |tail: &[u8]| [json.as_bytes(), tail].concat();
    assert!(run(Some(json.len()), body(&[1, 2])).is_ok());
    let e = run(Some(json.len()), body(&[1])).unwrap_err();
    assert!(e.message().starts_with("input 'x': binary_data_size is 2, but only 1 bytes"), "{e}");
    let e = run(Some(json.len()), body(&[1, 2, 3])).unwrap_err();
    assert!(e.message().starts_with("1 bytes of the body belong to no input (the last is 'x')"), "{e}");
    let e = run(Some(json.len() + 9), body(&[1, 2])).unwrap_err();
    assert!(e.message().contains("but the body has"), "{e}");
    let e = run(Some(json.len() - 1), body(&[1, 2])).unwrap_err();
    assert!(e.message().contains("EOF while parsing an object"), "{e}");
    for bad in [&b"-1"[..], b"", b"x", b"99999999999999999999999", b"+1", b"\xff"] {
        let e = header_length(bad).unwrap_err();
        assert!(e.message().ends_with("expected a number of bytes"), "{e}");
    }
    assert_eq!(header_length(b"12").unwrap(), 12);
}

#[test]
fn unsupported_features_say_so() {
    for body in [
        r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}"#,
        r#"{"inputs":[],"parameters":{"sequence_id":5}}"#,
        r#"{"inputs":[],"parameters":{"sequence_start":true}}"#,
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":{"shared_memory_region":"r"}}]}"#,
    ] {
        assert_eq!(text(body).unwrap_err().kind(), ErrorKind::Unsupported, "{body}");
    }
    assert!(text(r#"{"inputs":[],"parameters":{"sequence_id":0,"sequence_start":false}}"#).is_ok());
}

#[test]
fn as_much_as_the_limits_say_is_taken() {
    let tensor = |i: usize| json!({"name": format!("x{i}"), "shape": vec![1; 64], "datatype": "INT8", "data": [1]});
    let outputs: Vec<Value> = (0..OUTPUTS_MAX).map(|i| json!({"name": format!("y{i}")})).collect();
    let inputs: Vec<Value> = (0..INPUTS_MAX).map(tensor).collect();
    let d = text(&json!({"inputs": inputs, "outputs": outputs, "parameters": names(1024)}).to_string()).unwrap();
    let r = d.request;
    assert_eq!((r.inputs.len(), r.outputs.len(), r.parameters.len()), (1024, 1024, 1024));
}

#[test]
fn what_counts_for_nothing_is_left_unread() {
    let d = text(
        r#"{"id":null,"outputs":null,"parameters":null,"more":[[{"a":[]}]],"inputs":[{"name":"a\u0062","shape":[1],"datatype":"INT8",
            "data":[1],"more":{},"parameters":{"hint":[1,{"a":2}],"none":null,"hint":{"b":[]}}}]}"#,
    );
    let r = d.unwrap().request;
    assert_eq!((r.id.as_str(), r.inputs[0].name()), ("", "ab"));
    // Null is what some serializers write for a parameter that was not given, also one with a meaning.
    let nulls = text(
        r#"{"parameters":{"a":null,"timeout":null,"binary_data_output":null,"sequence_id":null,"tenant":null,
            "grey_prove":null,"grey_nonce":null},"outputs":[{"name":"y","parameters":{"binary_data":null,
            "classification":null}}],"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],
            "parameters":{"binary_data_size":null}}]}"#,
    );
    assert_eq!(nulls.unwrap().request.parameters, Parameters::new());
    let twice = text(r#"{"inputs":[],"parameters":{"a":[1],"a":2}}"#).unwrap();
    assert_eq!(twice.request.parameters, Parameters::from([("a".into(), Parameter::Int(2))]), "the last counts");
}

#[test]
fn memory_is_asked_for_before_it_is_used() {
    let asked = |header, body: Payload| {
        let mut sum = 0;
        let answer = within(
            &mut |n| {
                sum += n;
                Ok(())
            },
            header,
            body,
        );
        (sum, answer.is_ok())
    };
    let n = 10_000usize;
    let json = json!({"inputs": [{"name": "x", "shape": [n], "datatype": "FP64", "data": vec![1; n]}]}).to_string();
    let names = 2 * "x".len();
    assert_eq!(asked(None, json.clone().into_bytes().into()), (8 * n + names, true));
    // In two chunks it is copied first.
    let (a, b) = json.as_bytes().split_at(100);
    let halves: Payload = [Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)].into_iter().collect();
    assert_eq!(asked(None, halves), (json.len() + 8 * n + names, true));
    // Texts that are copied: the id, and parameters that are passed on.
    let p = r#"{"a":"b"}"#;
    let (sum, ok) = asked(None, format!(r#"{{"inputs":[],"id":"1234","parameters":{p}}}"#).into_bytes().into());
    assert_eq!((sum, ok), (4 + "ab".len(), true));
    // The parser's buffer for a text with escapes and its copy, then the text itself.
    let id = r#"\u0041BC"#;
    let (sum, ok) = asked(None, format!(r#"{{"inputs":[],"id":"{id}"}}"#).into_bytes().into());
    assert_eq!((sum, ok), (2 * (id.len() + 1) + 3, true));
    // A shape that promises what is not there costs no more than its text can become.
    let lie = input(json!({"shape": [1u64 << 40], "datatype": "FP64"}));
    assert_eq!(asked(None, lie.into_bytes().into()), (names + 8 * "[1,2]".len(), false));
    // BYTES in several chunks are put together.
    let json = input(json!({"data": null, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}));
    let parts = [json.clone().into_bytes(), vec![2, 0, 0], vec![0, b'h', b'i']];
    let (sum, ok) = asked(Some(json.len()), parts.into_iter().map(Bytes::from).collect());
    assert_eq!((sum, ok), (6 + names, true));

    // Every refusal is what decoding fails with, wherever it comes.
    let body = input(json!({})).replacen('{', r#"{"id":"7","parameters":{"a":"b"},"#, 1);
    for at in 0.. {
        let mut calls = 0;
        let mut budget = |_| {
            calls += 1;
            if calls > at { Err(Error::new(ErrorKind::Overloaded, "full")) } else { Ok(()) }
        };
        match within(&mut budget, None, body.clone().into_bytes()) {
            Ok(_) => {
                assert!(at > 3);
                break;
            }
            Err(e) => assert_eq!((e.kind(), e.message()), (ErrorKind::Overloaded, "full")),
        }
    }
}

#[test]
fn parameters_are_understood_or_passed_on() {
    let (model, now) = (model(), crate::clock::now());
    let cx = DecodeContext { model: &model, header_length: None, tenant: None, signature: None, prove: None, now };
    let body = |p: Value| Payload::from(json!({"inputs": [], "parameters": p}).to_string().into_bytes());
    let decode = |cx, p| decode(cx, &body(p), &mut |_| Ok(()));
    let d = decode(cx, json!({"timeout": 1500, "tenant": "t", "binary_data_output": true, "a": 1, "b": 0.5})).unwrap();
    assert_eq!(d.request.deadline, Some(now + Duration::from_micros(1500)));
    assert_eq!((d.request.tenant.as_str(), d.answer.binary), ("t", true));
    let passed = Parameters::from([("a".into(), Parameter::Int(1)), ("b".into(), Parameter::Float(0.5))]);
    assert_eq!(d.request.parameters, passed);
    let header = Tenant::new("u").unwrap();
    let cx = DecodeContext { tenant: Some(&header), ..cx };
    assert!(decode(cx, json!({"tenant": "t"})).is_err());
    assert_eq!(decode(cx, json!({})).unwrap().request.tenant, header);
}

#[test]
fn raw_bodies_take_the_models_shape() {
    let raw = |datatype: DType, shape: Vec<Dim>, body: Vec<u8>| {
        let spec = TensorSpec { name: "x".into(), datatype, shape };
        let signature = Signature { inputs: vec![spec], outputs: vec![] };
        let model = model();
        let cx = DecodeContext {
            model: &model,
            header_length: Some(0),
            tenant: None,
            signature: Some(&signature),
            prove: None,
            now: crate::clock::now(),
        };
        decode(cx, &body.into(), &mut |_| Ok(())).map(|d| (d.request.inputs[0].clone(), d.answer.binary))
    };
    let (t, binary) = raw(DType::Fp32, vec![Dim::Any, Dim::Fixed(2)], vec![0; 24]).unwrap();
    assert!(binary);
    assert_eq!(t.shape(), [3, 2]);
    assert_eq!(raw(DType::Fp32, vec![Dim::Any, Dim::Any], vec![0; 24]).unwrap().0.shape(), [1, 6]);
    assert!(raw(DType::Fp32, vec![Dim::Any, Dim::Fixed(2)], vec![0; 23]).is_err());
    assert!(raw(DType::Fp32, vec![Dim::Any, Dim::Any, Dim::Any], vec![0; 24]).is_err());
    assert!(raw(DType::Fp32, vec![Dim::Any, Dim::Fixed(0)], vec![0; 24]).is_err());
    let (t, _) = raw(DType::Bytes, vec![Dim::Any], b"hi".to_vec()).unwrap();
    assert_eq!((t.shape(), &t.data().to_contiguous()[..]), (&[1u64][..], &[2u8, 0, 0, 0, b'h', b'i'][..]));
}

#[test]
fn answers_that_json_cannot_hold_are_refused() {
    for (dtype, data) in [
        (DType::Fp32, f32::NAN.to_le_bytes().to_vec()),
        (DType::Fp64, f64::INFINITY.to_le_bytes().to_vec()),
        (DType::Fp16, half::f16::NEG_INFINITY.to_le_bytes().to_vec()),
        (DType::Bytes, vec![1, 0, 0, 0, 0xff]),
    ] {
        let r = response(vec![Tensor::new("y", dtype, vec![1], data).unwrap()]);
        let e = encode(&r, &AnswerOptions::default()).unwrap_err();
        assert!(e.message().starts_with("output 'y' holds ") && e.message().contains("binary_data_output"), "{e}");
        assert!(encode(&r, &AnswerOptions { binary: true, ..Default::default() }).is_ok());
    }
}

#[test]
fn binary_answers_share_the_tensors_memory() {
    let data = Bytes::from(vec![7u8; 64]);
    let t = Tensor::new("y", DType::Uint8, vec![64], data.clone()).unwrap();
    let e = encode(&response(vec![t]), &AnswerOptions { binary: true, ..Default::default() }).unwrap();
    assert_eq!(e.chunks[1].as_ptr(), data.as_ptr());
    assert_eq!(e.header_length, Some(e.chunks[0].len()));
    let head: Value = serde_json::from_slice(&e.chunks[0]).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 64);
    assert_eq!((head["id"].as_str(), head["model_version"].as_str()), (Some("7"), Some("1")));
}
