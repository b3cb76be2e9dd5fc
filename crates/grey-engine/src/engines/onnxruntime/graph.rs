//! The parts of an ONNX file that tell which operators it has (`onnx.proto3`, IR version ≤ 13).
//!
//! Fields that are not named here are skipped, and the bytes of weights are not copied: they are views
//! into the file. A file is hostile until the runtime has opened it, and what it opened may still be
//! built to hurt here: no reader panics, and messages nest at most as deep as `prost` allows (100).

use bytes::Bytes;
use prost::Message;

/// Marks a file in ONNX Runtime's own format, 4 bytes from its start.
const ORT_FORMAT: &[u8] = b"ORTM";

/// Elements, as `TensorProto.DataType` counts them.
pub(super) mod elements {
    pub(crate) const FLOAT: i32 = 1;
    pub(crate) const UINT8: i32 = 2;
    pub(crate) const INT8: i32 = 3;
    pub(crate) const INT32: i32 = 6;
    pub(crate) const INT64: i32 = 7;
    pub(crate) const BOOL: i32 = 9;
    pub(crate) const FLOAT16: i32 = 10;
    pub(crate) const DOUBLE: i32 = 11;
    pub(crate) const BFLOAT16: i32 = 16;
    /// Integers of whole bytes, and not of 2 or 4 bits.
    pub(crate) const WHOLE_BYTES: [i32; 8] = [UINT8, INT8, 4, 5, INT32, INT64, 12, 13];
    /// The 8-bit floats.
    pub(crate) const FLOAT8: std::ops::RangeInclusive<i32> = 17..=20;
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(int64, tag = "1")]
    pub(super) ir_version: i64,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "25")]
    pub(super) functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "13")]
    pub(super) value_info: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    pub(super) sparse_initializer: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FunctionProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub(super) output: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    pub(super) node: Vec<NodeProto>,
    #[prost(string, tag = "10")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    /// Names of values; an empty one stands for an input that is left out.
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "3")]
    pub(super) i: i64,
    /// UTF-8 or not: ONNX says bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) s: Bytes,
    #[prost(message, optional, tag = "5")]
    pub(super) t: Option<TensorProto>,
    #[prost(message, optional, boxed, tag = "6")]
    pub(super) g: Option<Box<GraphProto>>,
    #[prost(message, repeated, tag = "11")]
    pub(super) graphs: Vec<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    /// Packed varints, as they stand: most weights are many, and none but a flag is read.
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) int32_data: Bytes,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) raw_data: Bytes,
    /// Where its elements are, if they are in another file.
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    pub(super) values: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    /// One for each dimension; how large they are is not read.
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DimensionProto {}

/// Reads a model file that the runtime has opened; on failure, says why its operators stay unknown.
pub(super) fn read(file: Bytes) -> Result<ModelProto, &'static str> {
    if file.get(4..8) == Some(ORT_FORMAT) {
        return Err("operators of an .ort file cannot be read");
    }
    let model = ModelProto::decode(file).map_err(|_| "the operators of this file cannot be read")?;
    if model.graph.is_none() {
        return Err("the file has no graph that can be read");
    }
    Ok(model)
}

impl ModelProto {
    /// Names of the files in which weights of the main graph lie, relative to the model's.
    pub(super) fn external_files(&self) -> std::collections::BTreeSet<&str> {
        let weights = self.graph.iter().flat_map(|g| &g.initializer);
        let entries = weights.flat_map(|t| &t.external_data).filter(|e| e.key == "location");
        entries.map(|e| e.value.as_str()).collect()
    }
}

impl NodeProto {
    /// The attribute of this name.
    pub(super) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name == name)
    }

    /// An integer attribute; 0 if it is not there.
    pub(super) fn integer(&self, name: &str) -> i64 {
        self.attribute(name).map_or(0, |a| a.i)
    }

    /// The name of the value at an input; `None` if it is left out.
    pub(super) fn given(&self, input: usize) -> Option<&str> {
        self.input.get(input).map(String::as_str).filter(|n| !n.is_empty())
    }

    /// Whether the node is of ONNX's own operators.
    pub(super) fn is_onnx(&self) -> bool {
        matches!(self.domain.as_str(), "" | "ai.onnx")
    }

    /// Graphs inside the node: branches and bodies of loops.
    pub(super) fn subgraphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
    }
}

impl TensorProto {
    /// Whether it is a single element that is certainly zero or false.
    pub(super) fn is_zero(&self) -> bool {
        let data = if self.raw_data.is_empty() { &self.int32_data } else { &self.raw_data };
        !data.is_empty() && data.iter().all(|b| *b == 0)
    }
}

impl ValueInfoProto {
    /// How many dimensions it has, if it says so.
    pub(super) fn rank(&self) -> Option<usize> {
        Some(self.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim.len())
    }

    /// Its elements, if it is a tensor of a known type.
    pub(super) fn element(&self) -> Option<i32> {
        self.r#type.as_ref()?.tensor_type.as_ref().map(|t| t.elem_type).filter(|e| *e != 0)
    }
}
