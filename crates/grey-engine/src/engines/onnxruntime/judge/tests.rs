use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::engines::onnxruntime::graph::{AttributeProto, TensorProto, TensorTypeProto, TypeProto, ValueInfoProto};

const HERE: Setting<'static> = Setting { version: "1.32.0", threads: 1 };

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    let (domain, name) = op.rsplit_once('.').unwrap_or(("", op));
    NodeProto {
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: name.to_owned(),
        domain: domain.to_owned(),
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.to_owned(), i, ..AttributeProto::default() });
    node
}

fn value(name: &str, element: i32) -> ValueInfoProto {
    let tensor_type = Some(TensorTypeProto { elem_type: element, shape: None });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
}

fn tensor(name: &str, data_type: i32, raw: &'static [u8]) -> TensorProto {
    TensorProto { name: name.to_owned(), data_type, raw_data: Bytes::from_static(raw), ..TensorProto::default() }
}

/// Inputs `x`, `k` and `v`, weights `w` and `b`, flags `yes` and `no`, output `y`.
fn model_in(element: i32, nodes: Vec<NodeProto>) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        initializer: vec![
            tensor("w", element, &[1]),
            tensor("b", element, &[1]),
            tensor("q", elements::INT8, &[1]),
            tensor("yes", elements::BOOL, &[1]),
            tensor("no", elements::BOOL, &[0]),
        ],
        input: vec![value("x", element), value("k", element), value("v", element)],
        output: vec![value("y", element)],
        ..GraphProto::default()
    };
    ModelProto { ir_version: 8, graph: Some(graph), ..ModelProto::default() }
}

fn model(nodes: Vec<NodeProto>) -> ModelProto {
    model_in(elements::FLOAT, nodes)
}

fn judged(model: &ModelProto, setting: Setting<'_>) -> Verdict {
    judge(model.encode_to_vec().into(), setting)
}

fn class(nodes: Vec<NodeProto>) -> (Repeats, String) {
    let verdict = judged(&model(nodes), HERE);
    (verdict.repeats, verdict.reason)
}

fn everywhere(nodes: Vec<NodeProto>) {
    let (repeats, reason) = class(nodes);
    assert_eq!(repeats, Repeats::Everywhere, "{reason}");
}

fn weaker(nodes: Vec<NodeProto>, repeats: Repeats, says: &str) {
    let (found, reason) = class(nodes);
    assert!(found == repeats && reason.contains(says), "{found:?}: {reason}");
}

#[test]
fn the_weakest_operator_decides() {
    let mlp = || vec![node("Gemm", &["x", "w", "b"], "h"), node("Relu", &["h"], "y")];
    let (repeats, reason) = class(mlp());
    assert_eq!(repeats, Repeats::Everywhere);
    assert_eq!(reason, "its 2 operators give a row the same bytes in every bucket at every position");
    let with = |op: &str| [mlp(), vec![node(op, &["y"], "z")]].concat();
    weaker(with("ReduceMean"), Repeats::Slot, "operator ReduceMean (1 node) depends on the row's position");
    weaker([with("Log"), with("Log")].concat(), Repeats::Slot, "operator Log (2 nodes) depends");
    weaker(with("Einsum"), Repeats::Slot, "operator Einsum (1 node) is not measured");
    weaker(with("com.acme.Gemm"), Repeats::Slot, "operator com.acme.Gemm (1 node) is not measured");
    weaker(with("DynamicQuantizeLinear"), Repeats::Alone, "DynamicQuantizeLinear (1 node) computes a scale");
    let all = [with("Log"), with("DynamicQuantizeLinear"), with("RandomNormalLike")].concat();
    weaker(all, Repeats::Never, "RandomNormalLike (1 node) draws random numbers");
}

#[test]
fn another_release_or_more_threads_are_not_measured() {
    let product = model(vec![node("MatMul", &["x", "w"], "y")]);
    for version in ["1.31.1", "1.33.0", "1.3", "2.0", "1.320.0"] {
        let verdict = judged(&product, Setting { version, ..HERE });
        assert_eq!(verdict.repeats, Repeats::Slot);
        assert_eq!(verdict.reason, format!("not measured for ONNX Runtime {version}"));
    }
    assert_eq!(judged(&product, Setting { threads: 3, ..HERE }).repeats, Repeats::Everywhere);
    let verdict = judged(&product, Setting { threads: 4, ..HERE });
    assert_eq!(verdict.repeats, Repeats::Slot);
    assert_eq!(verdict.reason, "measured on at most 3 threads, this runs on 4");
    let depthwise = model(vec![with(node("Conv", &["x", "w"], "y"), "group", 8)]);
    assert_eq!(judged(&depthwise, Setting { threads: 3, ..HERE }).repeats, Repeats::Everywhere);
    let verdict = judged(&depthwise, Setting { threads: 4, ..HERE });
    assert!(verdict.repeats == Repeats::Slot && verdict.reason.contains("depthwise"), "{}", verdict.reason);
    // A weaker class stays what it is.
    let random = model(vec![node("RandomNormalLike", &["x"], "y")]);
    assert_eq!(judged(&random, Setting { version: "1.20.0", threads: 8 }).repeats, Repeats::Never);
}

#[test]
fn weights_must_be_the_model_s() {
    let says = "weights that are computed in the run";
    for op in ["MatMul", "Gemm", "Conv", "ConvTranspose", "com.microsoft.FusedMatMul"] {
        everywhere(vec![node(op, &["x", "w"], "y")]);
        weaker(vec![node(op, &["x", "k"], "y")], Repeats::Slot, says);
    }
    for op in ["LSTM", "GRU"] {
        everywhere(vec![node(op, &["x", "w", "w", "b"], "y")]);
        weaker(vec![node(op, &["x", "w", "k"], "y")], Repeats::Slot, says);
    }
    // What the runtime folds when it opens the model is the model's.
    let mut constant = node("Constant", &[], "c");
    let t = Some(tensor("", elements::FLOAT, &[1]));
    constant.attribute.push(AttributeProto { name: "value".into(), t, ..AttributeProto::default() });
    let folded = vec![
        node("Transpose", &["w"], "t"),
        constant.clone(),
        node("Mul", &["t", "c"], "m"),
        node("MatMul", &["x", "m"], "y"),
    ];
    everywhere(folded);
    // Whatever makes them, they must be a matrix for certain.
    let says_matrix = "no plain matrix";
    weaker(vec![node("Expand", &["w", "b"], "m"), node("MatMul", &["x", "m"], "y")], Repeats::Slot, says_matrix);
    let mut three = constant;
    three.attribute[0].t = Some(TensorProto { dims: vec![1, 4, 4], ..TensorProto::default() });
    weaker(vec![three.clone(), node("MatMul", &["x", "c"], "y")], Repeats::Slot, says_matrix);
    let added = vec![three.clone(), node("Add", &["w", "c"], "m"), node("MatMul", &["x", "m"], "y")];
    weaker(added, Repeats::Slot, says_matrix);
    let mut shape = tensor("shape", elements::INT64, &[]);
    shape.dims = vec![2];
    let mut reshaped = model(vec![three, node("Reshape", &["c", "shape"], "m"), node("MatMul", &["x", "m"], "y")]);
    if let Some(g) = &mut reshaped.graph {
        g.initializer.push(shape);
    }
    assert_eq!(judged(&reshaped, HERE).repeats, Repeats::Everywhere);
    weaker(vec![node("Mul", &["w", "k"], "m"), node("MatMul", &["x", "m"], "y")], Repeats::Slot, says);
    let by_shape = vec![node("Shape", &["x"], "s"), node("Mul", &["w", "s"], "m"), node("MatMul", &["x", "m"], "y")];
    weaker(by_shape, Repeats::Slot, says);
    // A default that a caller may replace is no constant, except in old files.
    let mut replaceable = model(vec![node("MatMul", &["x", "w"], "h"), node("Softmax", &["h"], "y")]);
    if let Some(g) = &mut replaceable.graph {
        g.input.push(value("w", elements::FLOAT));
    }
    assert_eq!(judged(&replaceable, HERE).repeats, Repeats::Slot);
    replaceable.ir_version = 3;
    assert_eq!(judged(&replaceable, HERE).repeats, Repeats::Everywhere);
}

#[test]
fn weights_in_blocks_are_multiplied_otherwise() {
    let product = |weights: NodeProto| vec![weights, node("MatMul", &["x", "d"], "y")];
    everywhere(product(node("DequantizeLinear", &["q", "b"], "d")));
    let blocks = with(node("DequantizeLinear", &["q", "b"], "d"), "block_size", 32);
    weaker(product(blocks), Repeats::Slot, "quantised in blocks");
    let mut four_bits = model(product(node("DequantizeLinear", &["q4", "b"], "d")));
    if let Some(g) = &mut four_bits.graph {
        g.initializer.push(tensor("q4", 22, &[1]));
    }
    assert_eq!(judged(&four_bits, HERE).repeats, Repeats::Slot);
}

#[test]
fn attention_is_known_by_its_softmax() {
    let scores = |after: &[(&str, &str)]| {
        let mut nodes = vec![node("MatMul", &["x", "k"], "v0")];
        for (n, (op, other)) in after.iter().enumerate() {
            nodes.push(node(op, &[&format!("v{n}"), other], &format!("v{}", n + 1)));
        }
        nodes
    };
    let full = [("Div", "b"), ("Add", "v"), ("Softmax", ""), ("MatMul", "v")];
    everywhere(scores(&full));
    everywhere(scores(&[("Cast", ""), ("Softmax", ""), ("Dropout", ""), ("MatMul", "v")]));
    everywhere(scores(&[("Mul", "b"), ("Where", "v"), ("Softmax", ""), ("Where", "b"), ("MatMul", "v")]));
    let says = "operator MatMul (1 node) has weights";
    weaker(scores(&[("Relu", ""), ("Softmax", "")]), Repeats::Slot, says);
    weaker(scores(&[("Div", "b")]), Repeats::Slot, says);
    // Scores that are also used otherwise.
    let mut twice = scores(&full);
    twice.push(node("Relu", &["v0"], "z"));
    weaker(twice, Repeats::Slot, says);
    // Scores that leave the graph.
    let mut leaving = model(scores(&full));
    if let Some(g) = &mut leaving.graph {
        g.output.push(value("v1", elements::FLOAT));
    }
    assert_eq!(judged(&leaving, HERE).repeats, Repeats::Slot);
}

#[test]
fn attention_of_a_deep_model_is_attention() {
    let mut nodes = vec![node("Relu", &["x"], "r0")];
    nodes.extend((0..40).map(|n| node("Relu", &[&format!("r{n}")], &format!("r{}", n + 1))));
    nodes.push(node("MatMul", &["x", "r40"], "scores"));
    nodes.push(node("Softmax", &["scores"], "weights"));
    nodes.push(node("MatMul", &["weights", "r40"], "y"));
    everywhere(nodes);
}

#[test]
fn dropout_in_training_is_random() {
    everywhere(vec![node("Dropout", &["x"], "y")]);
    everywhere(vec![node("Dropout", &["x", "b", "no"], "y")]);
    weaker(vec![node("Dropout", &["x", "b", "yes"], "y")], Repeats::Never, "training mode");
    weaker(vec![node("Dropout", &["x", "b", "k"], "y")], Repeats::Never, "training mode");
}

#[test]
fn scattered_sums_and_scales_of_the_run_are_weaker() {
    everywhere(vec![node("ScatterND", &["x", "w", "k"], "y")]);
    let mut adding = node("ScatterND", &["x", "w", "k"], "y");
    let s = Bytes::from_static(b"add");
    adding.attribute.push(AttributeProto { name: "reduction".into(), s, ..AttributeProto::default() });
    weaker(vec![adding], Repeats::Slot, "adds up where it scatters");
    everywhere(vec![node("QuantizeLinear", &["x", "b"], "y")]);
    weaker(vec![node("QuantizeLinear", &["x", "k"], "y")], Repeats::Alone, "scale that is computed in the run");
}

#[test]
fn graphs_inside_and_functions_are_looked_at() {
    let inner = |op: &str| {
        let g = GraphProto { node: vec![node(op, &["x"], "z")], ..GraphProto::default() };
        let mut outer = node("If", &["k"], "y");
        outer.attribute.push(AttributeProto { g: Some(Box::new(g)), ..AttributeProto::default() });
        outer
    };
    weaker(vec![inner("Add")], Repeats::Slot, "operator If (1 node) runs a graph inside");
    weaker(vec![inner("RandomNormalLike")], Repeats::Never, "RandomNormalLike");

    let call = |bodies: &[(&str, &str)], op: &str| {
        let mut m = model(vec![node(op, &["x"], "y"), node(op, &["x"], "z")]);
        m.functions = bodies
            .iter()
            .map(|(name, body)| FunctionProto {
                name: (*name).to_owned(),
                domain: "f".into(),
                input: vec!["a".into()],
                output: vec!["c".into()],
                node: vec![node(body, &["a"], "c")],
            })
            .collect();
        judged(&m, HERE)
    };
    assert_eq!(call(&[("A", "Relu")], "f.A").repeats, Repeats::Everywhere);
    assert_eq!(
        call(&[("A", "f.B"), ("B", "Log")], "f.A").reason,
        "operator Log (1 node) depends on the row's position"
    );
    assert_eq!(call(&[("A", "Relu"), ("B", "RandomNormalLike")], "f.A").repeats, Repeats::Everywhere);
    // A function that calls itself is no model, but ends all the same.
    assert_eq!(call(&[("A", "f.A")], "f.A").repeats, Repeats::Everywhere);
    assert_eq!(call(&[("A", "Relu")], "f.C").repeats, Repeats::Slot);
}

#[test]
fn other_float_types_are_not_measured() {
    let class = |element, op: &str| judged(&model_in(element, vec![node(op, &["x", "w"], "y")]), HERE).repeats;
    for (element, product, sine) in [
        (elements::FLOAT, Repeats::Everywhere, Repeats::Slot),
        (elements::FLOAT16, Repeats::Everywhere, Repeats::Slot),
        (elements::BFLOAT16, Repeats::Slot, Repeats::Slot),
        (elements::DOUBLE, Repeats::Slot, Repeats::Alone),
    ] {
        assert_eq!((class(element, "MatMul"), class(element, "Sin")), (product, sine), "{element}");
        assert_eq!(class(element, "Add"), Repeats::Everywhere);
    }
    let hidden = vec![
        with(node("Cast", &["x"], "d"), "to", i64::from(elements::DOUBLE)),
        node("Exp", &["d"], "e"),
        with(node("Cast", &["e"], "y"), "to", i64::from(elements::FLOAT)),
    ];
    weaker(hidden, Repeats::Slot, "operator Exp (1 node) is not measured in this float type");
}

#[test]
fn precisions_have_names() {
    let precision = |element, nodes| judged(&model_in(element, nodes), HERE).precision;
    let product = || vec![node("MatMul", &["x", "w"], "y")];
    assert_eq!(precision(elements::FLOAT, product()), "fp32");
    assert_eq!(precision(elements::FLOAT16, product()), "fp16");
    assert_eq!(precision(elements::BFLOAT16, product()), "bf16");
    assert_eq!(precision(elements::DOUBLE, product()), "fp64");
    assert_eq!(precision(elements::INT32, vec![node("Add", &["x", "k"], "y")]), "int");
    assert_eq!(precision(elements::FLOAT, vec![node("Gather", &["w", "x"], "y")]), "fp32");
    let dynamic = vec![node("DynamicQuantizeLinear", &["x"], "i"), node("MatMulInteger", &["i", "q"], "y")];
    assert_eq!(precision(elements::FLOAT, dynamic), "int8-dynamic");
    let fixed = || vec![node("QuantizeLinear", &["x", "b"], "i"), node("DequantizeLinear", &["i", "b"], "d")];
    assert_eq!(precision(elements::FLOAT, [fixed(), product()].concat()), "int8-static");
    // Only the weights are small.
    let weights = vec![node("DequantizeLinear", &["q", "b"], "d"), node("MatMul", &["x", "d"], "y")];
    assert_eq!(precision(elements::FLOAT, weights), "fp32");
    let both = vec![
        with(node("Cast", &["x"], "h"), "to", i64::from(elements::FLOAT16)),
        node("Relu", &["h"], "r"),
        node("Relu", &["x"], "y"),
    ];
    assert_eq!(precision(elements::FLOAT, both), "mixed");
}

#[test]
fn what_cannot_be_read_is_slot() {
    let ort = judge(Bytes::from_static(b"\x18\0\0\0ORTM\0\0\0\0"), HERE);
    assert_eq!(ort, unknown("operators of an .ort file cannot be read"));
    assert_eq!(judge(Bytes::new(), HERE), unknown("the file has no graph that can be read"));
    assert_eq!(judge(Bytes::from_static(b"\xff\xff"), HERE).repeats, Repeats::Slot);
    // A graph in a graph in a graph ...
    let mut deep = GraphProto { node: vec![node("RandomNormal", &[], "y")], ..GraphProto::default() };
    for _ in 0..200 {
        let mut outer = node("If", &["k"], "y");
        outer.attribute.push(AttributeProto { g: Some(Box::new(deep)), ..AttributeProto::default() });
        deep = GraphProto { node: vec![outer], ..GraphProto::default() };
    }
    let deep = ModelProto { graph: Some(deep), ..ModelProto::default() };
    assert_eq!(judged(&deep, HERE), unknown("the operators of this file cannot be read"));
}

#[test]
fn a_reason_keeps_its_limits_whatever_names_a_file_has() {
    let long = "ü\n".repeat(100_000);
    let (_, reason) = class(vec![node(&long, &["x"], "y")]);
    assert!(reason.len() <= REASON_BYTES_MAX && !reason.contains('\n'), "{reason}");
}

#[test]
fn a_large_graph_is_judged_in_little_time() {
    // Each product's search could go through all the others.
    let nodes = (0..20_000)
        .flat_map(|n| [node("MatMul", &["x", "k"], &format!("p{n}")), node("Add", &[&format!("p{n}"), "a"], "a")]);
    let began = crate::clock::now();
    weaker(nodes.collect(), Repeats::Slot, "has weights");
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
}

/// A file with something of everything.
fn sample() -> Vec<u8> {
    let mut m = model(vec![
        node("MatMul", &["x", "k"], "s"),
        with(node("Cast", &["s"], "c"), "to", 10),
        node("Softmax", &["c"], "p"),
        node("MatMul", &["p", "v"], "y"),
        node("f.A", &["y"], "z"),
        node("QuantizeLinear", &["z", "b"], "i"),
    ]);
    m.functions.push(FunctionProto { name: "A".into(), domain: "f".into(), ..FunctionProto::default() });
    m.encode_to_vec()
}

fn keeps_the_limits(bytes: Vec<u8>, threads: u32) {
    let v = judge(bytes.into(), Setting { version: "1.32.0", threads });
    let (repeats, reason, precision) = (v.repeats, v.reason, v.precision);
    crate::Determinism { repeats, reason, precision, switches: Vec::new() }.check_limits().unwrap();
}

proptest! {
    #[test]
    fn random_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..600), threads in 1u32..6) {
        keeps_the_limits(bytes, threads);
    }

    #[test]
    fn changed_files_are_judged(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        keeps_the_limits(bytes.clone(), 1);
        bytes.truncate(cut.index(bytes.len()));
        keeps_the_limits(bytes, 1);
    }
}
