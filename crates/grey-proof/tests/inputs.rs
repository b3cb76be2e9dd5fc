//! Policies and known values as text: what JSON of the vectors cannot hold, and what errors say.

use grey_proof::{InputError, Known, Policy};

fn of(e: &InputError) -> (&str, &str, &str) {
    (e.place(), e.expected(), e.found())
}

#[test]
fn errors_name_the_member() {
    let e = Policy::from_json(r#"{"max_age":"60"}"#).unwrap_err();
    assert_eq!(of(&e), ("policy/max_age", "an integer from 0 to 2^63-1", "the text '60'"));
    assert_eq!(e.to_string(), "policy/max_age: expected an integer from 0 to 2^63-1, found the text '60'");
    let e = Policy::from_json(r#"{"roots":{"tsa":["MAA=","no"]}}"#).unwrap_err();
    assert_eq!(of(&e), ("policy/roots/tsa/1", "standard, padded base64", "'no'"));
    let e = Policy::from_json(r#"{"expected_mrsigner":"00"}"#).unwrap_err();
    assert_eq!(of(&e), ("policy/expected_mrsigner", "32 bytes in hex", "'00'"));
    let e = Known::from_json(r#"{"inputs":[{"name":"x"}]}"#).unwrap_err();
    assert_eq!(of(&e), ("known/inputs/0/datatype", "the member", "none"));
    let e = Known::from_json(r#"{"reqest":1}"#).unwrap_err();
    assert_eq!((e.place(), e.found()), ("known/reqest", "a member that is unknown"));
    assert!(e.expected().contains("request"), "{e}");
}

#[test]
fn a_member_twice_is_an_error_at_every_level() {
    for text in [
        r#"{"strict":true,"strict":true}"#,
        r#"{"roots":{"tsa":[],"tsa":[]}}"#,
        r#"{"strict":true,"\u0073trict":true}"#,
    ] {
        assert_eq!(Policy::from_json(text).unwrap_err().found(), "it twice", "{text}");
        assert!(serde_json::from_str::<Policy>(text).is_err(), "{text}");
    }
    for text in [
        r#"{"seen":[],"seen":[]}"#,
        r#"{"request":{"parameters":{"a":1,"a":1}}}"#,
        r#"{"view":{"exec":{"class":"slot","class":"slot"}}}"#,
    ] {
        assert_eq!(Known::from_json(text).unwrap_err().found(), "it twice", "{text}");
    }
}

#[test]
fn what_is_no_json_is_an_error() {
    for text in ["", "{", "{}x", "{'strict':true}", "{\"strict\":true,}", "\u{feff}{}", "{\"x\":\"\\ud800\"}", "NaN"] {
        assert!(Policy::from_json(text).is_err() && Known::from_json(text).is_err(), "{text}");
    }
    for depth in [33, 200, 100_000] {
        let text = format!(r#"{{"view":{{"x":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(Known::from_json(&text).is_err(), "{depth} lists");
        assert!(Policy::from_json(&text).is_err(), "{depth} lists");
    }
    assert_eq!(Policy::from_json(" {} "), Ok(Policy::default()));
    assert_eq!(Known::from_json("{}"), Ok(Known::default()));
}
