//! Where the values of one graph come from, and what they hold.

use std::collections::{HashMap, HashSet};

use super::graph::{FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, elements};

/// From this IR version on, an initializer that is also an input may be replaced by a caller, so the
/// runtime does not treat it as a constant.
const IR_WITH_DEFAULTS: i64 = 4;

/// When a value is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// When the model is opened: the runtime computes it then.
    Model,
    /// In a run, but not from the request's own data (or it cannot be told from what).
    Run,
    /// From the request's data.
    Request,
}

/// A value of a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'m> {
    pub(super) origin: Origin,
    /// Its elements ([`elements`]), where they can be told.
    pub(super) element: Option<i32>,
    /// How many dimensions it has, where that can be told.
    pub(super) rank: Option<usize>,
    /// The node that makes it, by position.
    pub(super) node: Option<usize>,
    /// Its content, if the file holds it.
    pub(super) tensor: Option<&'m TensorProto>,
}

/// The values of a graph or function body, by name. Values of an outer graph are not known in it.
#[derive(Debug)]
pub(super) struct Values<'m> {
    pub(super) nodes: &'m [NodeProto],
    known: HashMap<&'m str, Value<'m>>,
    users: HashMap<&'m str, Vec<usize>>,
    outputs: HashSet<&'m str>,
}

impl<'m> Values<'m> {
    /// Those of a graph.
    pub(super) fn of_graph(model: &ModelProto, graph: &'m GraphProto) -> Self {
        let outputs = graph.output.iter().map(|o| o.name.as_str()).collect();
        let mut values = Values { nodes: &graph.node, known: HashMap::new(), users: HashMap::new(), outputs };
        let all = graph.value_info.iter().chain(&graph.output).chain(&graph.input);
        let declared: HashMap<&str, &ValueInfoProto> = all.map(|info| (info.name.as_str(), info)).collect();
        for input in &graph.input {
            let (element, rank) = (input.element(), input.rank());
            values
                .known
                .insert(&input.name, Value { origin: Origin::Request, element, rank, node: None, tensor: None });
        }
        let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
        for tensor in graph.initializer.iter().chain(sparse) {
            let replaceable = model.ir_version >= IR_WITH_DEFAULTS && values.known.contains_key(tensor.name.as_str());
            let (origin, content) = if replaceable { (Origin::Run, None) } else { (Origin::Model, Some(tensor)) };
            let (element, rank) = (Some(tensor.data_type), Some(tensor.dims.len()));
            values.known.insert(&tensor.name, Value { origin, element, rank, node: None, tensor: content });
        }
        values.follow(&declared);
        values
    }

    /// Those of a function's body, which is judged for every call alike: nothing is known of its inputs.
    pub(super) fn of_function(function: &'m FunctionProto) -> Self {
        let outputs = function.output.iter().map(String::as_str).collect();
        let mut values = Values { nodes: &function.node, known: HashMap::new(), users: HashMap::new(), outputs };
        for input in &function.input {
            let unknown = Value { origin: Origin::Run, element: None, rank: None, node: None, tensor: None };
            values.known.insert(input, unknown);
        }
        values.follow(&HashMap::new());
        values
    }

    /// Goes through the nodes, which an ONNX file holds in an order in which they can run.
    fn follow(&mut self, declared: &HashMap<&str, &ValueInfoProto>) {
        for (at, node) in self.nodes.iter().enumerate() {
            for input in node.input.iter().filter(|n| !n.is_empty()) {
                self.users.entry(input).or_default().push(at);
            }
            let origin = self.origin_of(node);
            for (position, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
                let said = declared.get(name.as_str());
                let element = said.and_then(|s| s.element()).or_else(|| self.element_of(node, position));
                let rank = said.and_then(|s| s.rank()).or_else(|| self.rank_of(node));
                let tensor = if node.op_type == "Constant" { content(node) } else { None };
                self.known.insert(name, Value { origin, element, rank, node: Some(at), tensor });
            }
        }
    }

    fn origin_of(&self, node: &NodeProto) -> Origin {
        let inside = if node.subgraphs().next().is_some() { Origin::Run } else { Origin::Model };
        let inputs = node.input.iter().filter(|n| !n.is_empty()).map(|n| self.origin(n));
        let latest = inputs.max().unwrap_or(Origin::Model).max(inside);
        match node.op_type.as_str() {
            "Shape" | "Size" => latest.min(Origin::Run),
            _ => latest,
        }
    }

    fn element_of(&self, node: &NodeProto, position: usize) -> Option<i32> {
        let of = |input: usize| node.given(input).and_then(|n| self.get(n)).and_then(|v| v.element);
        let op = node.op_type.as_str();
        match op {
            "Cast" => i32::try_from(node.integer("to")).ok(),
            "CastLike" | "DequantizeLinear" | "Where" => of(1),
            "OneHot" => of(2),
            "Constant" | "ConstantOfShape" => match content(node) {
                Some(tensor) => Some(tensor.data_type),
                None if op == "ConstantOfShape" || node.attribute("value_float").is_some() => Some(elements::FLOAT),
                None if node.attribute("value_floats").is_some() => Some(elements::FLOAT),
                None => Some(elements::INT64),
            },
            "Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" => Some(elements::INT64),
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "IsNaN" | "IsInf" => Some(elements::BOOL),
            "TopK" if position == 1 => Some(elements::INT64),
            "DynamicQuantizeLinear" if position == 1 => Some(elements::FLOAT),
            "DynamicQuantizeLinear" => Some(elements::UINT8),
            "QuantizeLinear" => match i32::try_from(node.integer("output_dtype")) {
                Ok(named) if named != 0 => Some(named),
                _ => of(2).or(Some(elements::UINT8)),
            },
            "MatMulInteger" | "ConvInteger" => Some(elements::INT32),
            "QLinearConv" | "QLinearMatMul" => of(7),
            _ => (0..node.input.len()).find_map(of),
        }
    }

    /// The rank of what a node makes, for the nodes that stand between stored weights and their use.
    fn rank_of(&self, node: &NodeProto) -> Option<usize> {
        let value = |input: usize| node.given(input).and_then(|n| self.get(n));
        match node.op_type.as_str() {
            "Constant" => content(node).map(|t| t.dims.len()),
            "Reshape" => {
                let [dimensions] = value(1)?.tensor?.dims[..] else { return None };
                usize::try_from(dimensions).ok()
            }
            "Cast" | "CastLike" | "DequantizeLinear" | "Identity" | "Neg" | "QuantizeLinear" | "Transpose" => {
                value(0)?.rank
            }
            "Add" | "Div" | "Mul" | "Sub" => Some(value(0)?.rank?.max(value(1)?.rank?)),
            _ => None,
        }
    }

    /// A value of this graph.
    pub(super) fn get(&self, name: &str) -> Option<&Value<'m>> {
        self.known.get(name)
    }

    /// Where a value comes from; one of an outer graph counts as the run's.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.get(name).map_or(Origin::Run, |v| v.origin)
    }

    /// The node that makes a value.
    pub(super) fn maker(&self, name: &str) -> Option<&'m NodeProto> {
        self.nodes.get(self.get(name)?.node?)
    }

    /// The nodes that take a value, and nothing else does; `None` if it also leaves the graph.
    pub(super) fn users(&self, name: &str) -> Option<impl Iterator<Item = &'m NodeProto>> {
        let users = self.users.get(name)?;
        (!self.outputs.contains(name)).then(|| users.iter().filter_map(|at| self.nodes.get(*at)))
    }

    /// The float types among a node's inputs, as far as they are known.
    pub(super) fn floats<'a>(&'a self, node: &'a NodeProto) -> impl Iterator<Item = i32> + 'a {
        node.input.iter().filter_map(|n| self.get(n)?.element).filter(|e| is_float(*e))
    }

    /// Every float type that is known in this graph.
    pub(super) fn all_floats(&self) -> impl Iterator<Item = i32> {
        self.known.values().filter_map(|v| v.element).filter(|e| is_float(*e))
    }
}

fn content(node: &NodeProto) -> Option<&TensorProto> {
    node.attribute("value")?.t.as_ref()
}

/// Whether elements are floats.
pub(super) fn is_float(element: i32) -> bool {
    matches!(element, elements::FLOAT | elements::FLOAT16 | elements::DOUBLE | elements::BFLOAT16)
        || elements::FLOAT8.contains(&element)
}
