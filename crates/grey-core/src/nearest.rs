//! "Did you mean": the known name that is nearest to one that is not known.

/// Longer names are not compared: nobody mistypes them, and the work grows with their square.
const COMPARED_BYTES_MAX: usize = 128;

/// The one of `names` that is nearest to `asked`, if it is near enough to be what was meant: at most one
/// edit (a letter more, less, changed, or two swapped), and one more per three letters.
pub fn nearest<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if asked.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let known = names.into_iter().filter(|n| *n != asked && n.len() <= COMPARED_BYTES_MAX);
    let (edits, name) = known.map(|n| (strsim::osa_distance(asked, n), n)).min()?;
    (edits <= 1 + asked.chars().count() / 3).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_near() {
        let names = ["digits", "mnist", "sentiment"];
        assert_eq!(nearest("digts", names), Some("digits"));
        assert_eq!(nearest("mnsit", names), Some("mnist"), "swapped letters are one edit");
        assert_eq!(nearest("resnet", names), None);
        assert_eq!(nearest("digits", names), None, "what is there is not what was meant");
        assert_eq!(nearest(&"d".repeat(1000), names), None);
        assert_eq!(nearest("", ["abc", "a"]), Some("a"));
    }
}
