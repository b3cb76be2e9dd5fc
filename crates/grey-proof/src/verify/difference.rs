//! Where two JSON values differ, told so that the difference shows.

use serde_json::Value;

use crate::error::shown;

/// Characters of a long text that are shown, some before the first that differs.
const SHOWN_CHARS: usize = 60;
const SHOWN_BEFORE: usize = 20;

/// Two values that differ; `None` stands for a member that is not there.
pub(super) struct Differing<'a> {
    pub(super) place: String,
    pub(super) made: Option<&'a Value>,
    pub(super) known: Option<&'a Value>,
}

impl<'a> Differing<'a> {
    /// The first difference inside them that has nothing inside that differs.
    pub(super) fn innermost(mut self) -> Differing<'a> {
        while let Some(below) = self.below() {
            self = below;
        }
        self
    }

    fn below(&self) -> Option<Differing<'a>> {
        match (self.made?, self.known?) {
            (Value::Object(made), Value::Object(known)) => {
                let mut names = made.keys().chain(known.keys());
                let name = names.find(|name| made.get(*name) != known.get(*name))?;
                let place = format!("{}/{name}", self.place);
                Some(Differing { place, made: made.get(name), known: known.get(name) })
            }
            (Value::Array(made), Value::Array(known)) => {
                let at = (0..made.len().max(known.len())).find(|i| made.get(*i) != known.get(*i))?;
                Some(Differing { place: format!("{}/{at}", self.place), made: made.get(at), known: known.get(at) })
            }
            _ => None,
        }
    }
}

/// Both values for people, long texts around where they begin to differ.
pub(super) fn texts(made: Option<&Value>, known: Option<&Value>) -> (String, String) {
    let same = match (made, known) {
        (Some(Value::String(a)), Some(Value::String(b))) => {
            a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count()
        }
        _ => 0,
    };
    let text = |value: Option<&Value>| match value {
        None => "none".to_owned(),
        Some(Value::String(text)) if text.chars().count() > SHOWN_CHARS => {
            let from = same.saturating_sub(SHOWN_BEFORE);
            let part: String = text.chars().skip(from).take(SHOWN_CHARS).collect();
            let before = if from == 0 { "" } else { "…" };
            let after = if from.saturating_add(SHOWN_CHARS) < text.chars().count() { "…" } else { "" };
            format!("{before}{}{after}", shown(&part))
        }
        Some(Value::String(text)) => shown(text),
        Some(other) => shown(&other.to_string()),
    };
    (text(made), text(known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(made: Value, known: Value) -> (String, String, String) {
        let found = Differing { place: "exec".into(), made: Some(&made), known: Some(&known) }.innermost();
        let (expected, here) = texts(found.made, found.known);
        (found.place, expected, here)
    }

    #[test]
    fn the_innermost_difference_is_named() {
        let made = json!({ "class": "slot", "segments": [[1, 0, 1], [2, 0, 2]], "threads": 1 });
        let mut known = made.clone();
        known["segments"][1][2] = json!(3);
        assert_eq!(told(made.clone(), known), ("exec/segments/1/2".into(), "'2'".into(), "'3'".into()));
        let mut known = made.clone();
        known.as_object_mut().unwrap().remove("threads");
        assert_eq!(told(made.clone(), known), ("exec/threads".into(), "'1'".into(), "none".into()));
        let mut known = made.clone();
        known["segments"].as_array_mut().unwrap().pop();
        assert_eq!(told(made, known).0, "exec/segments/1");
    }

    #[test]
    fn long_texts_are_cut_around_their_difference() {
        let (long, other) = (format!("{}a{}", "x".repeat(90), "y".repeat(90)), format!("{}b", "x".repeat(90)));
        let (_, expected, found) = told(json!(long), json!(other));
        assert_eq!(expected, format!("…'{}a{}'…", "x".repeat(20), "y".repeat(39)));
        assert_eq!(found, format!("…'{}b'", "x".repeat(20)));
    }
}
