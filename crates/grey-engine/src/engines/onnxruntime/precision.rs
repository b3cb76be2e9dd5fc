//! What a model computes in.

use std::collections::BTreeSet;

use super::{
    graph::{GraphProto, NodeProto, elements},
    operators::{Kind, Operator},
    values::{Values, is_float},
};

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Precision {
    /// Float types of nodes that compute.
    computing: BTreeSet<i32>,
    /// Float types of inputs and outputs.
    outside: BTreeSet<i32>,
    /// Float types of any value.
    seen: BTreeSet<i32>,
    /// Types that data, not weights, is quantised to.
    quantised: BTreeSet<i32>,
    dynamic: bool,
}

impl Precision {
    /// Takes in what the model takes and gives.
    pub(super) fn whole(&mut self, graph: &GraphProto) {
        let values = graph.input.iter().chain(&graph.output);
        self.outside.extend(values.filter_map(|v| v.element()).filter(|e| is_float(*e)));
    }

    /// Takes in the types of a graph's values.
    pub(super) fn types(&mut self, values: &Values<'_>) {
        self.seen.extend(values.all_floats());
    }

    /// Takes in a node.
    pub(super) fn node(&mut self, node: &NodeProto, operator: &Operator, values: &Values<'_>) {
        let op = node.op_type.as_str();
        let element = |n: Option<&String>| n.and_then(|n| values.get(n)).and_then(|v| v.element);
        match op {
            _ if op.starts_with("DynamicQuantize") => self.dynamic = true,
            "QuantizeLinear" => self.quantised.extend(element(node.output.first())),
            _ if op.starts_with("QLinear") || op == "QGemm" => {
                self.quantised.insert(elements::INT8);
            }
            // Integers by integers: what they take was quantised, by a node or by the caller.
            "MatMulInteger" | "ConvInteger" | "MatMulIntegerToFloat" => {
                self.quantised.insert(elements::INT8);
            }
            "Cast" | "CastLike" | "DequantizeLinear" => {}
            _ if operator.kind == Kind::Moves => {}
            _ => self.computing.extend(values.floats(node)),
        }
    }

    /// Every float type that some value has.
    pub(super) fn seen(&self) -> impl Iterator<Item = i32> {
        self.seen.iter().copied()
    }

    /// Its name, as claim exec 7 has it.
    pub(super) fn name(&self) -> String {
        let eight_bits = self.quantised.iter().all(|e| matches!(*e, elements::INT8 | elements::UINT8));
        let floats = if self.computing.is_empty() { &self.outside } else { &self.computing };
        let name = match floats.first().copied() {
            _ if self.dynamic => "int8-dynamic",
            _ if !self.quantised.is_empty() && eight_bits => "int8-static",
            _ if !self.quantised.is_empty() || floats.len() > 1 => "mixed",
            None => "int",
            Some(elements::FLOAT) => "fp32",
            Some(elements::FLOAT16) => "fp16",
            Some(elements::BFLOAT16) => "bf16",
            Some(elements::DOUBLE) => "fp64",
            Some(_) => "fp8",
        };
        name.to_owned()
    }
}
