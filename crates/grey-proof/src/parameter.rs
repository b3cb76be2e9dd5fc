//! The number rule of claim −70019: how a request's parameters, as JSON has them, become claims.

use serde_json::Value;

use crate::ParameterValue;
use crate::error::shown;
use crate::input::{InputError, Tree};

/// Most digits of an integer of 64 bits.
const I64_DIGITS_MAX: usize = 19;

/// 2^63, which a float holds exactly.
const I64_END: f64 = 9_223_372_036_854_775_808.0;

type Result<T> = std::result::Result<T, InputError>;

impl ParameterValue {
    /// From the text of a JSON value, so that every digit of a number counts: `9007199254740993.0` is
    /// that integer, and `0.99999999999999999999` is none.
    ///
    /// # Errors
    /// No JSON; null, a list, an object, or a number beyond a 64-bit float, which are no parameters.
    pub fn from_json_text(text: &str) -> Result<ParameterValue> {
        ParameterValue::from_tree(Tree::from_json(text)?)
    }

    /// From a JSON value whose numbers are already rounded to 64 bits. Where the text is at hand,
    /// [`ParameterValue::from_json_text`] loses nothing.
    ///
    /// # Errors
    /// Null, a list or an object, which are no parameters.
    pub fn from_json(value: &Value) -> Result<ParameterValue> {
        match value {
            Value::Number(n) => match n.as_f64() {
                Some(float) if n.is_f64() => ParameterValue::from_f64(float),
                _ => from_number(&n.to_string()),
            },
            Value::String(text) => Ok(ParameterValue::Text(text.clone())),
            Value::Bool(b) => Ok(ParameterValue::Bool(*b)),
            Value::Null => refused("null"),
            Value::Array(_) => refused("a list"),
            Value::Object(_) => refused("an object"),
        }
    }

    /// From a number that came as a 64-bit float.
    ///
    /// # Errors
    /// Infinities and NaN.
    pub fn from_f64(number: f64) -> Result<ParameterValue> {
        if !number.is_finite() {
            return refused("a number that is not finite");
        }
        // The bounds are powers of two, so the conversion between them is exact.
        let is_i64 = number == number.trunc() && (-I64_END..I64_END).contains(&number);
        Ok(if is_i64 { ParameterValue::Int(number as i64) } else { ParameterValue::Text(number_text(number)) })
    }

    pub(crate) fn from_tree(tree: Tree) -> Result<ParameterValue> {
        match tree {
            Tree::Number(digits) => from_number(&digits),
            Tree::Text(text) => Ok(ParameterValue::Text(text)),
            Tree::Bool(b) => Ok(ParameterValue::Bool(b)),
            other => refused(other.describe()),
        }
    }
}

impl From<i64> for ParameterValue {
    fn from(n: i64) -> Self {
        ParameterValue::Int(n)
    }
}

fn refused<T>(found: impl Into<String>) -> Result<T> {
    Err(InputError::new("text, true, false or a number that fits a 64-bit float", found))
}

/// `number` is a JSON number.
fn from_number(number: &str) -> Result<ParameterValue> {
    if let Some(n) = integral(number) {
        return Ok(ParameterValue::Int(n));
    }
    match number.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(ParameterValue::Text(number_text(float))),
        _ => refused(format!("the number {}", shown(number))),
    }
}

/// The value of a JSON number that is an integer of 64 bits, however it is written.
fn integral(number: &str) -> Option<i64> {
    let (negative, unsigned) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // An exponent beyond 64 bits is beyond every number of digits that fits in memory, either way.
    let least = if exponent.starts_with('-') { i64::MIN } else { i64::MAX };
    let zeros = i64::try_from(digits.len().checked_sub(significant.len())?).ok()?;
    let scale = exponent
        .parse::<i64>()
        .unwrap_or(least)
        .saturating_sub(i64::try_from(fraction.len()).ok()?)
        .saturating_add(zeros);
    let scale = usize::try_from(scale).ok()?;
    if significant.len().saturating_add(scale) > I64_DIGITS_MAX {
        return None;
    }
    let magnitude = significant.parse::<i128>().ok()?.checked_mul(10i128.checked_pow(u32::try_from(scale).ok()?)?)?;
    i64::try_from(if negative { magnitude.checked_neg()? } else { magnitude }).ok()
}

/// A finite number in the form of RFC 8785 §3.2.2.3: that of ECMAScript's `Number::toString`.
fn number_text(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = shortest(number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // Digits before the point.
    let point = exponent.saturating_add(1);
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let text = match point {
        1..=21 if count <= point => format!("{digits}{}", zeros(point.saturating_sub(count))),
        1..=21 => {
            let (whole, fraction) =
                digits.split_at_checked(usize::try_from(point).unwrap_or(0)).unwrap_or((&digits, ""));
            format!("{whole}.{fraction}")
        }
        -5..=0 => format!("0.{}{digits}", zeros(point.saturating_neg())),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{}", exponent.unsigned_abs())
        }
    };
    if number < 0.0 { format!("-{text}") } else { text }
}

/// In exponent form, the fewest digits that read back as the same float; of several the nearest, and
/// of two equally near the even one, as ECMAScript asks.
fn shortest(number: f64) -> String {
    // Rust finds the fewest digits and a nearest form of them, but in a tie it rounds up. Asked for that
    // many digits, it rounds to even; beside a power of two the result may be another float.
    let fewest = format!("{number:e}");
    let mantissa = fewest.split_once('e').map_or("", |(mantissa, _)| mantissa);
    let even = format!("{number:.*e}", mantissa.len().saturating_sub("1.".len()));
    if even.parse() == Ok(number) { even } else { fewest }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> ParameterValue {
        ParameterValue::from_json_text(text).unwrap()
    }

    fn text(t: &str) -> ParameterValue {
        ParameterValue::Text(t.to_owned())
    }

    /// RFC 8785, appendix B.
    #[test]
    fn numbers_of_rfc_8785() {
        for (bits, expected) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(number_text(f64::from_bits(bits)), expected);
        }
        for bits in [0x7fff_ffff_ffff_ffff, 0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000u64] {
            assert!(ParameterValue::from_f64(f64::from_bits(bits)).is_err());
        }
    }

    #[test]
    fn integral_numbers_are_integers_however_written() {
        for (json, expected) in [
            ("1", 1),
            ("1.0", 1),
            ("1e0", 1),
            ("1E+0", 1),
            ("10e-1", 1),
            ("1000000000000000000000000e-24", 1),
            ("0.0000001e7", 1),
            ("-0", 0),
            ("-0.0", 0),
            ("0e999999999999999999999", 0),
            ("0.000e-5", 0),
            ("-12.50e2", -1250),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775807.000", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9.223372036854775808e18", i64::MIN),
            ("9007199254740993.0", 9_007_199_254_740_993),
        ] {
            assert_eq!(of(json), ParameterValue::Int(expected), "{json}");
        }
    }

    #[test]
    fn other_numbers_are_text() {
        for (json, expected) in [
            ("0.5", "0.5"),
            ("5e-1", "0.5"),
            ("-0.50", "-0.5"),
            ("9223372036854775808", "9223372036854776000"),
            ("-9223372036854775809", "-9223372036854776000"),
            ("18446744073709551616", "18446744073709552000"),
            ("1e22", "1e+22"),
            ("100000000000000000000", "100000000000000000000"),
            ("1e-400", "0"),
            ("0.99999999999999999999", "1"),
            ("1e-99999999999999999999", "0"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ] {
            assert_eq!(of(json), text(expected), "{json}");
        }
    }

    #[test]
    fn what_is_no_parameter_is_an_error() {
        for json in
            ["null", "[]", "{}", "1e400", "-1e400", "1e99999999999999999999", "", "01", "+1", ".5", "1 2", "NaN"]
        {
            assert!(ParameterValue::from_json_text(json).is_err(), "{json}");
        }
        let e = ParameterValue::from_json_text("1e400").unwrap_err();
        assert_eq!(e.found(), "the number '1e400'");
    }

    #[test]
    fn values_and_floats_agree_with_the_text() {
        assert_eq!(of("\"0.5\""), of("0.5"), "text and number share a claim");
        assert_eq!(of("true"), ParameterValue::Bool(true));
        assert_eq!(ParameterValue::from(7), of("7"));
        for json in ["7", "-7", "18446744073709551615", "1e22", "0.1", "-0.0", "2.0", "1e18", "\"x\"", "false"] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(ParameterValue::from_json(&value).unwrap(), of(json), "{json}");
        }
        assert_eq!(ParameterValue::from_f64(-0.0), Ok(ParameterValue::Int(0)));
        assert_eq!(ParameterValue::from_f64(9_223_372_036_854_775_808.0), Ok(text("9223372036854776000")));
        assert_eq!(ParameterValue::from_f64(-9_223_372_036_854_775_808.0), Ok(ParameterValue::Int(i64::MIN)));
    }

    proptest! {
        /// The text reads back as the same number, and is an integer if and only if the number is one.
        #[test]
        fn fuzz_numbers_keep_their_value(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            prop_assert_eq!(number_text(number).parse::<f64>().unwrap(), number);
            match ParameterValue::from_f64(number).unwrap() {
                ParameterValue::Int(n) => prop_assert_eq!(n as f64, number),
                ParameterValue::Text(t) => {
                    prop_assert!(number != number.trunc() || number.abs() >= 9.2e18);
                    prop_assert_eq!(t, number_text(number));
                }
                ParameterValue::Bool(_) => prop_assert!(false),
            }
        }

        #[test]
        fn fuzz_any_text_is_a_parameter_or_an_error(s in "-?[0-9]{0,30}(\\.[0-9]{0,30})?([eE][+-]?[0-9]{0,25})?") {
            if let Ok(ParameterValue::Int(n)) = ParameterValue::from_json_text(&s) {
                prop_assert_eq!(n as f64, s.parse::<f64>().unwrap());
            }
        }
    }
}
