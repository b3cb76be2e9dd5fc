//! `data` of a JSON tensor: nested or flat, parsed in one pass without recursion, each number
//! rounded once from its decimal text to the tensor's dtype.

use std::cmp::Ordering;

use grey_core::{DType, ELEMENT_LENGTH_BYTES, Error, Result, element_count};
use half::{bf16, f16};

use super::{Budget, shown};

/// Reads `text`, which must be valid JSON, as the elements of input `name`. `budget` is asked for
/// all that the elements need before anything is allocated.
pub(super) fn parse(name: &str, dtype: DType, shape: &[u64], text: &str, budget: &mut Budget<'_>) -> Result<Vec<u8>> {
    let fail = |why: String| Error::invalid(format!("input '{}': {why}", shown(name)));
    let elements =
        element_count(shape).ok_or_else(|| fail(format!("the shape {shape:?} has more elements than can exist")))?;
    let size = match size_bound(dtype, elements, text.len()) {
        Some(size) => size,
        // Too short, but counting it costs little and says more.
        None if text.len() <= COUNTED_BYTES_MAX => text.len() * ELEMENT_BYTES_PER_TEXT,
        None => {
            let m =
                format!("data of {} bytes is too short for the {elements} elements of the shape {shape:?}", text.len());
            return Err(fail(m));
        }
    };
    budget(size)?;
    let mut out = Vec::with_capacity(size);
    let (mut scan, mut counts, mut found) = (Scan { text, at: 0 }, Vec::<u64>::new(), 0usize);
    let mut layout = None;
    while let Some(token) = scan.next() {
        match token {
            Token::Open => {
                if let Some(n) = counts.last_mut() {
                    *n += 1;
                    if layout == Some(Layout::Flat) {
                        return Err(fail(format!("element {found} is an array among single values")));
                    }
                    layout = Some(Layout::Nested);
                }
                counts.push(0);
                if counts.len() > shape.len().max(1) {
                    return Err(fail(format!(
                        "data is nested deeper than the {} dimensions of the shape {shape:?}",
                        shape.len()
                    )));
                }
            }
            Token::Close => {
                let depth = counts.len();
                let n = counts.pop().unwrap_or(0);
                // A flat list is counted at the end; an empty one at the top fits any empty shape.
                let expected = depth.checked_sub(1).and_then(|d| shape.get(d)).copied();
                if layout == Some(Layout::Nested) && expected != Some(n) {
                    return Err(fail(format!(
                        "data does not match the shape {shape:?}: an array at depth {depth} has {n} elements, expected {}",
                        expected.unwrap_or(0)
                    )));
                }
            }
            Token::Value(value) => {
                let depth = counts.len();
                if layout.is_none() {
                    layout = Some(if depth <= 1 { Layout::Flat } else { Layout::Nested });
                }
                if layout == Some(Layout::Nested) && depth != shape.len() {
                    return Err(fail(format!(
                        "data does not match the shape {shape:?}: element {found} is nested {depth} deep, expected {}",
                        shape.len()
                    )));
                }
                if depth == 0 && !shape.is_empty() {
                    return Err(fail(format!("data is a single value, expected an array for the shape {shape:?}")));
                }
                if let Some(n) = counts.last_mut() {
                    *n += 1;
                }
                if found == elements {
                    return Err(fail(format!("data has more than the {elements} elements of the shape {shape:?}")));
                }
                element(dtype, value, &mut out).map_err(|why| fail(format!("element {found} is {why}")))?;
                found += 1;
            }
            Token::Object => return Err(fail(format!("element {found} is an object, expected {}", expected(dtype)))),
        }
    }
    if found == elements {
        Ok(out)
    } else {
        Err(fail(format!("data has {found} elements, the shape {shape:?} needs {elements}")))
    }
}

/// Longest text that is counted although it cannot hold the elements that its shape promises.
const COUNTED_BYTES_MAX: usize = 64 << 10;
/// An element has at most so many bytes for each of its text.
const ELEMENT_BYTES_PER_TEXT: usize = 8;

/// Most bytes that `elements` can become out of `text_len` bytes of text; `None` if so many do not fit
/// in there. Each takes its shortest text and a comma behind all but the last: `0,0` or `"",""`.
fn size_bound(dtype: DType, elements: usize, text_len: usize) -> Option<usize> {
    let with_comma: usize = if dtype == DType::Bytes { 3 } else { 2 };
    let spare = text_len.checked_add(1)?.checked_sub(elements.checked_mul(with_comma)?)?;
    match dtype.size() {
        Some(size) => elements.checked_mul(size),
        // No text becomes longer when its escapes are resolved.
        None => elements.checked_mul(ELEMENT_LENGTH_BYTES)?.checked_add(spare),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Flat,
    Nested,
}

enum Token<'a> {
    Open,
    Close,
    /// The text of a number, string (with its quotes) or literal.
    Value(&'a str),
    Object,
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.text.as_bytes();
        loop {
            let start = self.at;
            let b = *bytes.get(start)?;
            self.at += 1;
            match b {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
                b'[' => return Some(Token::Open),
                b']' => return Some(Token::Close),
                b'{' => return Some(Token::Object),
                b'"' => {
                    while let Some(b) = bytes.get(self.at) {
                        self.at += if *b == b'\\' { 2 } else { 1 };
                        if *b == b'"' {
                            break;
                        }
                    }
                    return self.text.get(start..self.at).map(Token::Value);
                }
                _ => {
                    while bytes.get(self.at).is_some_and(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b',' | b']')) {
                        self.at += 1;
                    }
                    return self.text.get(start..self.at).map(Token::Value);
                }
            }
        }
    }
}

fn expected(dtype: DType) -> String {
    match dtype {
        DType::Bool => "true or false".into(),
        DType::Bytes => "text".into(),
        d if d.is_float() => format!("a number ({d})"),
        d => format!("an integer ({d})"),
    }
}

/// Appends one element. The error continues `element 3 is …`.
fn element(dtype: DType, text: &str, out: &mut Vec<u8>) -> std::result::Result<(), String> {
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let wrong = || {
        let what = if text.starts_with('"') { "text " } else { "" };
        format!("{what}{}, expected {}", shown(text), expected(dtype))
    };
    match dtype {
        DType::Bool => match text {
            "true" => out.push(1),
            "false" => out.push(0),
            _ => return Err(wrong()),
        },
        DType::Bytes => {
            let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).ok_or_else(wrong)?;
            if inner.contains('\\') {
                let s: String =
                    serde_json::from_str(text).map_err(|e| format!("not text that Unicode can write: {e}"))?;
                push_bytes(s.as_bytes(), out)?;
            } else {
                push_bytes(inner.as_bytes(), out)?;
            }
        }
        _ if !is_number => return Err(wrong()),
        DType::Fp64 => {
            out.extend_from_slice(&finite(text, dtype, text.parse::<f64>().ok(), f64::is_finite)?.to_le_bytes())
        }
        DType::Fp32 => {
            out.extend_from_slice(&finite(text, dtype, text.parse::<f32>().ok(), f32::is_finite)?.to_le_bytes())
        }
        DType::Fp16 => {
            let v = finite(text, dtype, narrow(text, 11, -14), |v| v.abs() <= f16::MAX.to_f64())?;
            out.extend_from_slice(&f16::from_f32(v as f32).to_le_bytes());
        }
        DType::Bf16 => {
            let v = finite(text, dtype, narrow(text, 8, -126), |v| v.abs() <= bf16::MAX.to_f64())?;
            out.extend_from_slice(&bf16::from_f32(v as f32).to_le_bytes());
        }
        DType::Int8 => {
            out.extend_from_slice(&(integer(text, dtype, i8::MIN.into(), i8::MAX.into())? as i8).to_le_bytes())
        }
        DType::Int16 => {
            out.extend_from_slice(&(integer(text, dtype, i16::MIN.into(), i16::MAX.into())? as i16).to_le_bytes())
        }
        DType::Int32 => {
            out.extend_from_slice(&(integer(text, dtype, i32::MIN.into(), i32::MAX.into())? as i32).to_le_bytes())
        }
        DType::Int64 => {
            out.extend_from_slice(&(integer(text, dtype, i64::MIN.into(), i64::MAX.into())? as i64).to_le_bytes())
        }
        DType::Uint8 => out.extend_from_slice(&(integer(text, dtype, 0, u8::MAX.into())? as u8).to_le_bytes()),
        DType::Uint16 => out.extend_from_slice(&(integer(text, dtype, 0, u16::MAX.into())? as u16).to_le_bytes()),
        DType::Uint32 => out.extend_from_slice(&(integer(text, dtype, 0, u32::MAX.into())? as u32).to_le_bytes()),
        DType::Uint64 => out.extend_from_slice(&(integer(text, dtype, 0, u64::MAX.into())? as u64).to_le_bytes()),
    }
    Ok(())
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), String> {
    let len = u32::try_from(bytes.len()).map_err(|_| "text longer than a BYTES element can be".to_owned())?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn integer(text: &str, dtype: DType, least: i128, most: i128) -> std::result::Result<i128, String> {
    if text.contains(['.', 'e', 'E']) {
        return Err(format!("{}, expected an integer ({dtype})", shown(text)));
    }
    // A text that even i128 cannot hold is out of every range, too.
    let value = text.parse::<i64>().map(i128::from).ok().or_else(|| text.parse::<i128>().ok());
    value
        .filter(|v| (least..=most).contains(v))
        .ok_or_else(|| format!("{}, out of the range of {dtype} ({least} to {most})", shown(text)))
}

fn finite<T: Copy>(
    text: &str,
    dtype: DType,
    value: Option<T>,
    ok: impl Fn(T) -> bool,
) -> std::result::Result<T, String> {
    value.filter(|v| ok(*v)).ok_or_else(|| format!("{}, out of the range of {dtype}", shown(text)))
}

/// Rounds decimal text once, to nearest with ties to even, to a binary float of `digits`
/// significant bits and least normal exponent `least_exponent`. The result is exact as `f64` and
/// may exceed the type's largest value. Going through `f64` alone would round twice: text just
/// off the middle of two neighbours can become the middle itself, so there the text decides.
fn narrow(text: &str, digits: i32, least_exponent: i32) -> Option<f64> {
    let x: f64 = text.parse().ok()?;
    let size = x.abs();
    // 2^-200 is far below half the least subnormal of every type here.
    if !size.is_finite() || size < power_of_two(-200) {
        return Some(if size.is_finite() { 0.0f64.copysign(x) } else { x });
    }
    let exponent = ((size.to_bits() >> 52) as i32) - 1023;
    let ulp = power_of_two(exponent.max(least_exponent) - (digits - 1));
    // Exact, as a division by a power of two without under- or overflow.
    let units = size / ulp;
    let rounded = if units.fract() == 0.5 {
        match compare_decimal(text.trim_start_matches('-'), &format!("{size:.200}")) {
            Ordering::Less => units.floor(),
            Ordering::Greater => units.ceil(),
            Ordering::Equal => units.round_ties_even(),
        }
    } else {
        units.round()
    };
    Some((rounded * ulp).copysign(x))
}

/// 2^`k` for a normal exponent.
fn power_of_two(k: i32) -> f64 {
    f64::from_bits(((k + 1023) as u64) << 52)
}

/// Compares two non-negative decimal texts exactly.
fn compare_decimal(a: &str, b: &str) -> Ordering {
    let (a, b) = (significant(a), significant(b));
    match (a.1.is_empty(), b.1.is_empty()) {
        (false, false) => a.cmp(&b),
        (a_zero, b_zero) => b_zero.cmp(&a_zero),
    }
}

/// Decimal exponent of the first digit that is not 0, and the digits from there without trailing zeros.
fn significant(text: &str) -> (i64, Vec<u8>) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let zeros = all.iter().take_while(|b| **b == b'0').count();
    let end = all.len() - all.iter().rev().take_while(|b| **b == b'0').count().min(all.len() - zeros);
    let exponent: i64 = exponent.trim_start_matches('+').parse().unwrap_or(0);
    (exponent.saturating_add(whole.len() as i64 - zeros as i64), all[zeros..end].to_vec())
}

#[cfg(test)]
mod tests {
    use grey_core::ErrorKind;

    use super::*;

    fn one(dtype: DType, text: &str) -> std::result::Result<Vec<u8>, String> {
        let mut out = Vec::new();
        element(dtype, text, &mut out).map(|()| out)
    }

    #[test]
    fn half_precision_is_rounded_once() {
        let h = |t: &str| f16::from_le_bytes(one(DType::Fp16, t).unwrap().try_into().unwrap());
        let b = |t: &str| bf16::from_le_bytes(one(DType::Bf16, t).unwrap().try_into().unwrap());
        // 1 + 2^-11 is the middle of 1 and its neighbour; a little more, below what f64 can tell, goes up.
        let middle = "1.00048828125";
        assert_eq!(h(middle).to_bits(), 0x3c00);
        assert_eq!(h(&format!("{middle}0000000000000000000000000001")).to_bits(), 0x3c01);
        assert_eq!(h("1.00048828124999999999999999999999999").to_bits(), 0x3c00);
        assert_eq!(h("-1.0004882812500000000000000000000000001e0").to_bits(), 0xbc01);
        assert_eq!(b("1.00390625").to_bits(), 0x3f80);
        assert_eq!(b("1.003906250000000000000000000000000001").to_bits(), 0x3f81);
        assert_eq!(h("65504").to_bits(), f16::MAX.to_bits());
        assert_eq!(h("65519.99").to_bits(), f16::MAX.to_bits());
        assert!(one(DType::Fp16, "65520").is_err());
        assert_eq!(h("5.9604644775390625e-8").to_bits(), 1);
        assert_eq!(h("2.98023223876953125e-8").to_bits(), 0, "half the least subnormal: a tie, to even");
        assert_eq!(h("2.980232238769531251e-8").to_bits(), 1);
        assert_eq!(h("-0").to_bits(), 0x8000);
        assert_eq!(h("1e-999999999999").to_bits(), 0);
        for bits in 0..=u16::MAX {
            let (x, y) = (f16::from_bits(bits), bf16::from_bits(bits));
            if x.is_finite() {
                assert_eq!(h(&format!("{x}")).to_bits(), bits);
            }
            if y.is_finite() {
                assert_eq!(b(&format!("{:e}", y.to_f32())).to_bits(), bits);
            }
        }
    }

    #[test]
    fn elements_out_of_range_are_named() {
        let e = parse("x", DType::Int8, &[2], "[1, 300]", &mut |_| Ok(())).unwrap_err();
        assert_eq!(e.message(), "input 'x': element 1 is 300, out of the range of INT8 (-128 to 127)");
        for (dtype, text) in [
            (DType::Int8, "1.0"),
            (DType::Int8, "1e2"),
            (DType::Uint64, "-1"),
            (DType::Uint64, "18446744073709551616"),
            (DType::Int64, "9999999999999999999999999999999999999999999999999"),
            (DType::Fp32, "1e39"),
            (DType::Fp64, "1e309"),
            (DType::Fp32, "null"),
            (DType::Fp32, "\"1\""),
            (DType::Fp32, "true"),
            (DType::Bool, "1"),
            (DType::Bytes, "1"),
            (DType::Bytes, r#""\ud800""#),
        ] {
            assert!(one(dtype, text).is_err(), "{dtype} {text}");
        }
        assert_eq!(one(DType::Uint8, "-0").unwrap(), [0]);
        assert_eq!(one(DType::Uint64, "18446744073709551615").unwrap(), u64::MAX.to_le_bytes());
        assert_eq!(one(DType::Bytes, r#""a\"\u00e9""#).unwrap(), [4, 0, 0, 0, b'a', b'"', 0xc3, 0xa9]);
    }

    #[test]
    fn nesting_is_checked() {
        let p = |shape: &[u64], text: &str| parse("x", DType::Uint8, shape, text, &mut |_| Ok(()));
        assert_eq!(p(&[2, 2], "[[1,2],[3,4]]").unwrap(), [1, 2, 3, 4]);
        assert_eq!(p(&[2, 2], " [1, 2,\n3,4 ]").unwrap(), [1, 2, 3, 4]);
        assert_eq!(p(&[], "5").unwrap(), [5]);
        assert_eq!(p(&[], "[5]").unwrap(), [5]);
        assert_eq!(p(&[0, 3], "[]").unwrap(), Vec::<u8>::new());
        assert_eq!(p(&[2, 0], "[[],[]]").unwrap(), Vec::<u8>::new());
        for (shape, text) in [
            (&[2u64, 2][..], "[[1,2,3],[4]]"),
            (&[2, 2], "[[1,2],[3]]"),
            (&[2, 2], "[1,[2,3],4]"),
            (&[2, 2], "[[1,2],3,4]"),
            (&[2, 2], "[[[1,2],[3,4]]]"),
            (&[2, 2], "[1,2,3]"),
            (&[2, 2], "[1,2,3,4,5]"),
            (&[2, 0], "[[]]"),
            (&[1, 1, 2], "[[1,2]]"),
            (&[2], "7"),
            (&[1], "[{\"a\":1}]"),
            (&[1], "{}"),
            (&[1], "null"),
        ] {
            assert!(p(shape, text).is_err(), "{shape:?} {text}");
        }
        assert!(p(&[1 << 62, 8], "[1]").is_err());
        assert!(p(&[1], &"[".repeat(200_000)).is_err());
    }

    #[test]
    fn memory_is_asked_for_before_it_is_taken() {
        let refused = |_: usize| Err(Error::new(ErrorKind::Overloaded, "full"));
        let long = format!("[{}1]", "1,".repeat(COUNTED_BYTES_MAX / 2));
        for shape in [&[1u64 << 62][..], &[100_000], &[1 << 31, 1 << 31]] {
            let e = parse("x", DType::Fp64, shape, &long, &mut |n| panic!("asked for {n}")).unwrap_err();
            assert!(e.message().contains("is too short for the"), "{e}");
        }
        for (shape, text) in [(&[1u64 << 62][..], "[1]"), (&[4], "[1,1]"), (&[1 << 31, 1 << 31], "[1]")] {
            let mut asked = 0;
            let mut budget = |n| {
                asked += n;
                Ok(())
            };
            let e = parse("x", DType::Fp64, shape, text, &mut budget).unwrap_err();
            assert!(e.message().contains("elements, the shape"), "{e}");
            assert!(asked <= 8 * text.len(), "{asked}");
        }
        let e = parse("x", DType::Fp64, &[2], "[1,\"\"]", &mut { refused }).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Overloaded, "before a look at the elements");
        for (dtype, shape, text, most) in [
            (DType::Fp64, &[3u64][..], "[1,1,1]", 24),
            (DType::Bool, &[0, 5], "[]", 0),
            (DType::Bytes, &[2], r#"["",""]"#, 10),
            (DType::Bytes, &[2, 1], r#"[["ab"],["\u00e9"]]"#, 22),
            (DType::Bytes, &[], r#""abc""#, 7),
        ] {
            let mut asked = 0;
            let mut budget = |n| {
                asked += n;
                Ok(())
            };
            let data = parse("x", dtype, shape, text, &mut budget).unwrap();
            assert_eq!(asked, most, "{text}");
            assert!(data.len() <= asked && data.capacity() <= asked, "{text}");
        }
    }
}
