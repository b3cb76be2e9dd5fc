//! Products of two values that are computed in the run: those of attention are made for each row by
//! itself, of shapes that a bucket does not change, so they repeat like products with fixed weights.

use super::{
    graph::NodeProto,
    values::{Origin, Values},
};

/// Nodes looked at between a product and its softmax: masks and scales are few. (A hostile graph must
/// not make every product look at every node.)
const STEPS_MAX: usize = 32;

/// Whether a product of two values of the request is one of attention's.
pub(super) fn is_attention(values: &Values<'_>, product: &NodeProto) -> bool {
    let both = [0, 1].iter().all(|i| product.given(*i).is_some_and(|n| values.origin(n) == Origin::Request));
    both && (ends_in_softmax(values, product) || begins_with_softmax(values, product))
}

/// Scores: queries by keys, scaled and masked, only ever used by a softmax.
fn ends_in_softmax(values: &Values<'_>, product: &NodeProto) -> bool {
    let mut open: Vec<&str> = product.output.iter().map(String::as_str).collect();
    let (mut steps, mut found) = (0, false);
    while let Some(name) = open.pop() {
        let Some(users) = values.users(name) else { return false };
        for user in users {
            steps += 1;
            if steps > STEPS_MAX {
                return false;
            }
            match user.op_type.as_str() {
                "Softmax" if user.is_onnx() => found = true,
                "Mul" | "Div" | "Add" | "Where" | "Cast" | "Identity" if user.is_onnx() => {
                    open.extend(user.output.iter().map(String::as_str));
                }
                _ => return false,
            }
        }
    }
    found
}

/// Answers: weights out of a softmax, by values.
fn begins_with_softmax(values: &Values<'_>, product: &NodeProto) -> bool {
    let mut open: Vec<&str> = product.given(0).into_iter().collect();
    let mut steps = 0;
    while let Some(name) = open.pop() {
        steps += 1;
        if steps > STEPS_MAX {
            return false;
        }
        let Some(maker) = values.maker(name) else { continue };
        match maker.op_type.as_str() {
            "Softmax" if maker.is_onnx() => return true,
            "Mul" | "Div" | "Where" | "Cast" | "Dropout" | "Identity" if maker.is_onnx() => {
                open.extend(maker.input.iter().map(String::as_str).filter(|n| !n.is_empty()));
            }
            _ => {}
        }
    }
    false
}
