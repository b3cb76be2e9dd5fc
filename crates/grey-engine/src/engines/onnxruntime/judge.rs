//! From a model's operators to what can be said about its bytes: the weakest operator decides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    attention::is_attention,
    graph::{self, FunctionProto, GraphProto, ModelProto, NodeProto, elements},
    operators::{self, Kind, NOT_MEASURED, Operator},
    precision::Precision,
    values::{Origin, Values},
};
use crate::engine::{PRECISION_BYTES_MAX, REASON_BYTES_MAX, Repeats};

/// The release that the table was measured with.
const MEASURED_RELEASE: &str = "1.32.";
/// Most threads that it was measured with.
const MEASURED_THREADS: u32 = 3;
/// The float types that it was measured in.
const MEASURED_FLOATS: [i32; 2] = [elements::FLOAT, elements::FLOAT16];
/// Nodes between a product and the stored weights that it may take in blocks.
const STEPS_MAX: usize = 8;
/// Dimensions of a matrix.
const MATRIX_RANK: usize = 2;
/// Longest name of an operator in a reason: names of hostile files have no end.
const NAME_CHARS_MAX: usize = 80;

/// What a model runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    /// The runtime's version.
    pub(super) version: &'a str,
    /// Threads of one run.
    pub(super) threads: u32,
}

/// What a model's operators say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) repeats: Repeats,
    pub(super) reason: String,
    pub(super) precision: String,
}

/// Judges a model file that the runtime has opened.
pub(super) fn judge(file: bytes::Bytes, setting: Setting<'_>) -> Verdict {
    match graph::read(file) {
        Ok(model) => judge_model(&model, setting),
        Err(why) => unknown(why),
    }
}

/// What is said of a model whose operators are not known.
pub(super) fn unknown(why: &str) -> Verdict {
    Verdict { repeats: Repeats::Slot, reason: why.to_owned(), precision: "unknown".to_owned() }
}

fn judge_model(model: &ModelProto, setting: Setting<'_>) -> Verdict {
    let mut walk = Walk::new(model, setting);
    walk.all();
    let precision = walk.precision.name();
    debug_assert!(precision.len() <= PRECISION_BYTES_MAX, "names of precisions are short");
    let (repeats, reason) = walk.weakest();
    Verdict { repeats, reason: cut(reason), precision }
}

/// Keeps a reason within what a node takes.
fn cut(mut reason: String) -> String {
    reason = reason.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or_default());
    reason
}

/// An operator of the model, and what lowers it.
type Finding = (Repeats, String, &'static str);

struct Walk<'m, 's> {
    model: &'m ModelProto,
    setting: Setting<'s>,
    functions: HashMap<(&'m str, &'m str), &'m FunctionProto>,
    /// Functions that are called and not yet looked at.
    called: Vec<(&'m str, &'m str)>,
    seen: HashSet<(&'m str, &'m str)>,
    found: BTreeMap<Finding, usize>,
    operators: BTreeSet<String>,
    precision: Precision,
}

impl<'m, 's> Walk<'m, 's> {
    fn new(model: &'m ModelProto, setting: Setting<'s>) -> Self {
        let functions = model.functions.iter().map(|f| ((domain(&f.domain), f.name.as_str()), f)).collect();
        Walk {
            model,
            setting,
            functions,
            called: Vec::new(),
            seen: HashSet::new(),
            found: BTreeMap::new(),
            operators: BTreeSet::new(),
            precision: Precision::default(),
        }
    }

    fn all(&mut self) {
        if let Some(graph) = &self.model.graph {
            self.precision.whole(graph);
            self.graph(graph);
        }
        while let Some(next) = self.called.pop() {
            if let Some(function) = self.functions.get(&next).copied() {
                self.nodes(&Values::of_function(function));
            }
        }
    }

    fn graph(&mut self, graph: &'m GraphProto) {
        self.nodes(&Values::of_graph(self.model, graph));
    }

    fn nodes(&mut self, values: &Values<'m>) {
        self.precision.types(values);
        for node in values.nodes {
            let key = (domain(&node.domain), node.op_type.as_str());
            let function = self.functions.contains_key(&key);
            if function && self.seen.insert(key) {
                self.called.push(key);
            }
            let name = operators::name(node);
            let known = operators::find(&name, self.may_be_double(node, values));
            // A function's name says nothing, unless the runtime may prefer an operator of that name.
            if !function || known.is_some() {
                let operator = self.operator(known.unwrap_or(NOT_MEASURED), node, values);
                let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                self.precision.node(node, &operator, values);
                if operator.repeats < Repeats::Everywhere {
                    let count = self.found.entry((operator.repeats, name.clone(), operator.why)).or_default();
                    *count = count.saturating_add(1);
                }
                self.operators.insert(name);
            }
            // As deep as the reader lets messages nest, so the stack is long enough.
            for inner in node.subgraphs() {
                self.graph(inner);
            }
        }
    }

    /// What the table says of a node's operator, lowered by how this node uses it.
    fn operator(&self, operator: Operator, node: &NodeProto, values: &Values<'m>) -> Operator {
        let lower = |repeats, why| match repeats < operator.repeats {
            true => Operator { repeats, why, ..operator },
            false => operator,
        };
        match node.op_type.as_str() {
            "Dropout" if node.given(2).is_some_and(|training| !is_false(values, training)) => {
                return lower(Repeats::Never, "may run in training mode and draw random numbers");
            }
            "QuantizeLinear" if node.given(1).is_some_and(|scale| values.origin(scale) != Origin::Model) => {
                return lower(Repeats::Alone, "has a scale that is computed in the run");
            }
            "ScatterElements" | "ScatterND" if node.attribute("reduction").is_some_and(|r| r.s != "none") => {
                return lower(Repeats::Slot, "adds up where it scatters, which is not measured");
            }
            "Conv" | "FusedConv" if self.setting.threads > MEASURED_THREADS && node.integer("group") > 1 => {
                return lower(
                    Repeats::Slot,
                    "in its depthwise form depends on the row's position at 4 threads or more",
                );
            }
            _ => {}
        }
        if let Some(weights) = weights_of(node) {
            let attention = is_product(node) && is_attention(values, node);
            if weights.iter().any(|n| values.origin(n) != Origin::Model) && !attention {
                return lower(Repeats::Slot, "has weights that are computed in the run");
            }
            // Gemm takes nothing else. Of more dimensions, even [1, K, N], the runtime packs none.
            let matrix = |n: &&str| values.get(n).and_then(|v| v.rank).is_some_and(|r| r <= MATRIX_RANK);
            if is_product(node) && !is_gemm(node) && !weights.iter().all(matrix) && !attention {
                return lower(
                    Repeats::Slot,
                    "has weights that are no plain matrix, and then depends on the row's position",
                );
            }
            // What attention multiplies is the request's, however long the way back to it is.
            if is_product(node) && !attention && weights.iter().any(|n| in_blocks(values, n)) {
                return lower(Repeats::Slot, "has weights quantised in blocks, and then depends on the row's position");
            }
        }
        if operator.kind == Kind::Measured && !self.measured_floats(node, values) {
            return lower(Repeats::Slot, "is not measured in this float type");
        }
        operator
    }

    /// Whether a node has an input in fp64; where its types cannot be told, whether any value has.
    fn may_be_double(&self, node: &NodeProto, values: &Values<'m>) -> bool {
        let mut known = values.floats(node).peekable();
        match known.peek() {
            Some(_) => known.any(|e| e == elements::DOUBLE),
            None => self.precision.seen().any(|e| e == elements::DOUBLE),
        }
    }

    /// Whether a node computes only in the types of the measurement. Where its types cannot be told,
    /// no value of the model may have another.
    fn measured_floats(&self, node: &NodeProto, values: &Values<'m>) -> bool {
        let mut known = values.floats(node).peekable();
        match known.peek() {
            Some(_) => known.all(|e| MEASURED_FLOATS.contains(&e)),
            None => self.precision.seen().all(|e| MEASURED_FLOATS.contains(&e)),
        }
    }

    fn weakest(&self) -> (Repeats, String) {
        // The first class, and in it the operator of most nodes.
        let lowest = self.found.keys().next().map(|f| f.0);
        let most = self.found.iter().filter(|(f, _)| Some(f.0) == lowest).max_by_key(|(_, count)| **count);
        if let Some(((repeats, name, why), count)) = most {
            let nodes = if *count == 1 { "node" } else { "nodes" };
            return (*repeats, format!("operator {name} ({count} {nodes}) {why}"));
        }
        let Setting { version, threads } = self.setting;
        if !version.starts_with(MEASURED_RELEASE) {
            return (Repeats::Slot, format!("not measured for ONNX Runtime {version}"));
        }
        if threads > MEASURED_THREADS {
            return (Repeats::Slot, format!("measured on at most {MEASURED_THREADS} threads, this runs on {threads}"));
        }
        let count = self.operators.len();
        let operators = if count == 1 { "operator gives" } else { "operators give" };
        (Repeats::Everywhere, format!("its {count} {operators} a row the same bytes in every bucket at every position"))
    }
}

/// One name for the domain of ONNX's own operators.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Whether a flag of the model is false.
fn is_false(values: &Values<'_>, name: &str) -> bool {
    values.get(name).and_then(|v| v.tensor).is_some_and(graph::TensorProto::is_zero)
}

/// Whether a node multiplies two matrices and nothing of more dimensions.
fn is_gemm(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Gemm" | "FusedGemm")
}

/// Whether a node multiplies matrices.
fn is_product(node: &NodeProto) -> bool {
    is_gemm(node) || matches!(node.op_type.as_str(), "MatMul" | "FusedMatMul")
}

/// The weights of a node whose kernel packs them when the model is opened; without that, how it
/// computes depends on how many rows there are. (Integer products are exact either way.)
fn weights_of(node: &NodeProto) -> Option<Vec<&str>> {
    let inputs: &[usize] = match node.op_type.as_str() {
        _ if is_product(node) => &[1],
        "Conv" | "ConvTranspose" | "FusedConv" => &[1],
        "LSTM" | "GRU" => &[1, 2],
        "Attention" if !node.is_onnx() => &[1],
        _ => return None,
    };
    Some(inputs.iter().filter_map(|i| node.given(*i)).collect())
}

/// Whether weights are dequantised in blocks: the runtime makes a `MatMulNBits` of such a product.
fn in_blocks(values: &Values<'_>, weights: &str) -> bool {
    let mut name = weights;
    for _ in 0..STEPS_MAX {
        let Some(maker) = values.maker(name) else { return false };
        if maker.op_type == "DequantizeLinear" {
            let stored = maker.given(0).and_then(|n| values.get(n)).and_then(|v| v.element);
            return maker.integer("block_size") != 0 || stored.is_none_or(|e| !elements::WHOLE_BYTES.contains(&e));
        }
        match maker.given(0) {
            Some(first) => name = first,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests;
