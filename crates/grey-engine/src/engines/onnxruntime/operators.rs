//! The operator table, `operators.txt`: data that this code and the test that executes it share.

use std::{borrow::Cow, collections::HashMap, sync::OnceLock};

use super::graph::NodeProto;
use crate::engine::Repeats;

const TABLE: &str = include_str!("operators.txt");

/// How an operator that repeats everywhere is known to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It computes nothing.
    Moves,
    /// By arithmetic, in every type.
    Exact,
    /// By measurement, in some types.
    Measured,
}

/// What is known of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    pub(super) repeats: Repeats,
    pub(super) kind: Kind,
    /// Continues "operator Name (3 nodes) ...".
    pub(super) why: &'static str,
}

/// What every operator is that the table does not have.
pub(super) const NOT_MEASURED: Operator =
    Operator { repeats: Repeats::Slot, kind: Kind::Measured, why: "is not measured" };

/// A node's operator as the table writes it.
pub(super) fn name(node: &NodeProto) -> Cow<'_, str> {
    if node.is_onnx() { Cow::Borrowed(&node.op_type) } else { format!("{}.{}", node.domain, node.op_type).into() }
}

/// What the table says of an operator, in fp64 if it may be that.
pub(super) fn find(name: &str, double: bool) -> Option<Operator> {
    let in_double = if double { entry(&format!("{name}/fp64")) } else { None };
    in_double.or_else(|| entry(name))
}

fn entry(name: &str) -> Option<Operator> {
    static PARSED: OnceLock<HashMap<&'static str, Operator>> = OnceLock::new();
    // A test shows that the whole table parses; a line that did not would be left out, which is safe.
    PARSED.get_or_init(|| parse(TABLE).filter_map(Result::ok).collect()).get(name).copied()
}

fn parse(text: &'static str) -> impl Iterator<Item = Result<(&'static str, Operator), &'static str>> {
    let mut group = None;
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).flat_map(move |line| {
        if line.starts_with('[') {
            group = header(line);
            return match group {
                Some(_) => Vec::new(),
                None => vec![Err(line)],
            };
        }
        line.split_whitespace().map(|op| group.map(|g| (op, g)).ok_or(line)).collect()
    })
}

fn header(line: &'static str) -> Option<Operator> {
    let (class, why) = line.strip_prefix('[')?.split_once("] ")?;
    let (repeats, kind) = match class {
        "everywhere moves" => (Repeats::Everywhere, Kind::Moves),
        "everywhere exact" => (Repeats::Everywhere, Kind::Exact),
        "everywhere measured" => (Repeats::Everywhere, Kind::Measured),
        "slot" => (Repeats::Slot, Kind::Measured),
        "alone" => (Repeats::Alone, Kind::Measured),
        "never" => (Repeats::Never, Kind::Measured),
        _ => return None,
    };
    Some(Operator { repeats, kind, why })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_whole_table_is_read_and_names_no_operator_twice() {
        let mut seen = HashSet::new();
        for parsed in parse(TABLE) {
            let (op, operator) = parsed.unwrap();
            assert!(seen.insert(op), "{op} stands twice");
            assert_eq!(entry(op), Some(operator));
            assert!(op.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b)), "{op}");
        }
        assert!(seen.len() > 150);
    }

    #[test]
    fn classes_are_those_of_the_format() {
        let class = |op: &str| find(op, false).map(|o| o.repeats);
        assert_eq!(class("MatMul"), Some(Repeats::Everywhere));
        assert_eq!(class("ReduceMean"), Some(Repeats::Slot));
        assert_eq!(class("DynamicQuantizeLinear"), Some(Repeats::Alone));
        assert_eq!(class("RandomNormal"), Some(Repeats::Never));
        assert_eq!((class("Sin"), find("Sin", true).map(|o| o.repeats)), (Some(Repeats::Slot), Some(Repeats::Alone)));
        assert_eq!(find("MatMul", true), find("MatMul", false));
        assert_eq!(class("Einsum"), None);
        assert_eq!(class("com.microsoft.MatMul"), None);
    }

    #[test]
    fn bad_lines_are_errors() {
        let bad = |text| parse(text).any(|e| e.is_err());
        assert!(bad("MatMul"));
        assert!(bad("[sometimes] why\nMatMul"));
        assert!(bad("[slot]\nMatMul"));
        assert!(!bad("# MatMul\n[slot] why\nMatMul Gemm"));
    }
}
