//! Deterministic CBOR (RFC 8949 §4.2.1) as far as the format uses it: a writer that has one
//! encoding per value, and a reader that takes nothing else.
//!
//! It is written here since no CBOR library refuses what is not deterministic, and the detour over
//! one that reads heads cost half of what a proof's claims do (`docs/decisions/0004`).

use std::ops::Range;

use crate::FormatError;
use crate::error::shown;

/// Deepest nesting of arrays, maps and tags.
const DEPTH_MAX: u8 = 16;
/// COSE_Sign1 (RFC 9052 §2), the only tag of the format.
const TAG_COSE_SIGN1: u64 = 18;

// Major types (RFC 8949 §3.1).
const POSITIVE: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

// Additional information (RFC 8949 §3): less than the first is the argument itself; these say how
// many bytes of it follow.
const ONE_BYTE: u8 = 24;
const TWO_BYTES: u8 = 25;
const FOUR_BYTES: u8 = 26;
const EIGHT_BYTES: u8 = 27;
const INDEFINITE: u8 = 31;

// Simple values (RFC 8949 §3.3).
const FALSE: u8 = 20;
const TRUE: u8 = 21;
const NULL: u8 = 22;

type Result<T> = std::result::Result<T, FormatError>;

/// Key of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Int(i64),
    Text(&'a str),
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Int(i) => write!(f, "{i}"),
            Key::Text(t) => f.write_str(&shown(t)),
        }
    }
}

impl Key<'_> {
    /// The error for a key that the map has no place for.
    pub(crate) fn unknown<T>(self) -> Result<T> {
        Err(FormatError::new("no such key", "one"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Head {
    Int(i64),
    Bytes(usize),
    Text(usize),
    Array(usize),
    Map(usize),
    Bool(bool),
    Sign1,
}

impl Head {
    fn describe(self) -> String {
        match self {
            Head::Int(i) => format!("the integer {i}"),
            Head::Bytes(n) => format!("{n} bytes"),
            Head::Text(n) => format!("text of {n} bytes"),
            Head::Array(n) => format!("an array of {n}"),
            Head::Map(n) => format!("a map of {n}"),
            Head::Bool(b) => format!("{b}"),
            Head::Sign1 => "tag 18".to_owned(),
        }
    }
}

/// What comes next, where the format lets several types stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Bytes,
    Text,
    Array,
    Map,
    Bool,
    Sign1,
}

fn refused(found: &str) -> FormatError {
    FormatError::new("deterministic CBOR", found)
}

/// The argument of a head in the `N` bytes behind its first, with `least`, and what follows.
fn argument<const N: usize>(bytes: &[u8], least: u64) -> Result<(u64, u64, &[u8])> {
    let (argument, rest) = bytes.split_first_chunk::<N>().ok_or_else(|| refused("bytes that begin no item"))?;
    Ok((argument.iter().fold(0, |n, b| n << 8 | u64::from(*b)), least, rest))
}

/// Bytes from the front of which items are taken; it can only shrink.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    depth: u8,
}

impl<'a> Reader<'a> {
    /// Reads one item that is all of `bytes`.
    pub(crate) fn all<T>(bytes: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Result<T>) -> Result<T> {
        let mut r = Reader { rest: bytes, depth: 0 };
        let value = read(&mut r)?;
        match r.rest.len() {
            0 => Ok(value),
            n => Err(FormatError::new("nothing after the item", format!("{n} more bytes"))),
        }
    }

    fn head(&mut self) -> Result<Head> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| refused("the end of the bytes"))?;
        let (major, info) = (first >> 5, first & 0x1f);
        // The argument, and the least that needs so many bytes.
        let (n, least, rest) = match info {
            0..ONE_BYTE => (u64::from(info), 0, rest),
            ONE_BYTE => argument::<1>(rest, ONE_BYTE.into())?,
            TWO_BYTES => argument::<2>(rest, 1 << 8)?,
            FOUR_BYTES => argument::<4>(rest, 1 << 16)?,
            EIGHT_BYTES => argument::<8>(rest, 1 << 32)?,
            INDEFINITE if matches!(major, BYTES..=MAP | SIMPLE) => return Err(refused("an indefinite length")),
            _ => return Err(refused("bytes that begin no item")),
        };
        // A length beyond the address space is longer than whatever is left.
        let len = usize::try_from(n).unwrap_or(usize::MAX);
        let head = match (major, info) {
            (POSITIVE, _) => i64::try_from(n).map(Head::Int).map_err(|_| "an integer above 2^63−1"),
            // −1 − n is the complement of n.
            (NEGATIVE, _) => i64::try_from(n).map(|n| Head::Int(!n)).map_err(|_| "an integer below −2^63"),
            (BYTES, _) => Ok(Head::Bytes(len)),
            (TEXT, _) => Ok(Head::Text(len)),
            (ARRAY, _) => Ok(Head::Array(len)),
            (MAP, _) => Ok(Head::Map(len)),
            (TAG, _) if n == TAG_COSE_SIGN1 => Ok(Head::Sign1),
            (TAG, _) if matches!(n, 2 | 3) => Err("a big number"),
            (TAG, _) => Err("a tag other than 18"),
            (_, FALSE) => Ok(Head::Bool(false)),
            (_, TRUE) => Ok(Head::Bool(true)),
            (_, NULL) => Err("null"),
            (_, TWO_BYTES..=EIGHT_BYTES) => Err("a float"),
            _ => Err("a simple value other than true and false"),
        }
        .map_err(refused)?;
        if n < least {
            return Err(refused("a head that is not the shortest"));
        }
        self.rest = rest;
        Ok(head)
    }

    fn cut(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            FormatError::new(format!("{len} bytes, as the head says"), format!("{} left", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    /// What comes next, without taking it.
    pub(crate) fn peek(&self) -> Result<Kind> {
        Ok(match self.clone().head()? {
            Head::Int(_) => Kind::Int,
            Head::Bytes(_) => Kind::Bytes,
            Head::Text(_) => Kind::Text,
            Head::Array(_) => Kind::Array,
            Head::Map(_) => Kind::Map,
            Head::Bool(_) => Kind::Bool,
            Head::Sign1 => Kind::Sign1,
        })
    }

    pub(crate) fn int(&mut self) -> Result<i64> {
        match self.head()? {
            Head::Int(i) => Ok(i),
            other => Err(FormatError::new("an integer", other.describe())),
        }
    }

    /// A non-negative integer; at most 2^63−1, as everywhere in the format.
    pub(crate) fn uint(&mut self) -> Result<u64> {
        let i = self.int()?;
        u64::try_from(i).map_err(|_| FormatError::new("an integer of at least 0", format!("{i}")))
    }

    /// The one integer that may stand here.
    pub(crate) fn exactly(&mut self, expected: i64) -> Result<()> {
        match self.int()? {
            i if i == expected => Ok(()),
            i => Err(FormatError::new(format!("{expected}"), format!("{i}"))),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        match self.head()? {
            Head::Bytes(n) => self.cut(n),
            other => Err(FormatError::new("a byte string", other.describe())),
        }
    }

    pub(crate) fn bytes_of<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes()?;
        bytes.try_into().map_err(|_| FormatError::new(format!("{N} bytes"), format!("{} bytes", bytes.len())))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        match self.head()? {
            Head::Text(n) => {
                std::str::from_utf8(self.cut(n)?).map_err(|_| FormatError::new("text in UTF-8", "other bytes"))
            }
            other => Err(FormatError::new("text", other.describe())),
        }
    }

    /// The one text that may stand here.
    pub(crate) fn word(&mut self, expected: &str) -> Result<()> {
        match self.text()? {
            t if t == expected => Ok(()),
            t => Err(FormatError::new(shown(expected), shown(t))),
        }
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        match self.head()? {
            Head::Bool(b) => Ok(b),
            other => Err(FormatError::new("true or false", other.describe())),
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH_MAX {
            return Err(FormatError::new(format!("a depth of at most {DEPTH_MAX}"), "more"));
        }
        self.depth = self.depth.saturating_add(1);
        let value = read(self);
        self.depth = self.depth.saturating_sub(1);
        value
    }

    /// The content of tag 18.
    pub(crate) fn sign1<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        match self.head()? {
            Head::Sign1 => self.nested(read),
            other => Err(FormatError::new("tag 18", other.describe())),
        }
    }

    /// An array of exactly `len` elements.
    pub(crate) fn array<T>(&mut self, len: usize, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        match self.head()? {
            Head::Array(n) if n == len => self.nested(read),
            other => Err(FormatError::new(format!("an array of {len}"), other.describe())),
        }
    }

    /// An array of at least `least` and at most `most` elements of one kind.
    pub(crate) fn list<T>(
        &mut self,
        least: usize,
        most: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        match self.head()? {
            // Nothing is reserved for a length that only the sender vouches for.
            Head::Array(n) if (least..=most).contains(&n) => {
                self.nested(|r| (0..n).map(|i| read(r).map_err(|e| e.within(i))).collect())
            }
            Head::Array(n) if n < least => Err(FormatError::new(format!("at least {least} elements"), format!("{n}"))),
            Head::Array(n) => Err(FormatError::new(format!("at most {most} elements"), format!("{n}"))),
            other => Err(FormatError::new("an array", other.describe())),
        }
    }

    /// A map. `read` is given each key and takes its value; keys must ascend in the order of their
    /// encodings, so that none comes twice.
    pub(crate) fn map(&mut self, mut read: impl FnMut(Key<'a>, &mut Self) -> Result<()>) -> Result<()> {
        let entries = match self.head()? {
            Head::Map(n) => n,
            other => return Err(FormatError::new("a map", other.describe())),
        };
        self.nested(|r| {
            let mut previous: &[u8] = &[];
            for _ in 0..entries {
                let before = r.rest;
                let key = match r.head()? {
                    Head::Int(i) => Key::Int(i),
                    Head::Text(n) => Key::Text(
                        std::str::from_utf8(r.cut(n)?)
                            .map_err(|_| FormatError::new("a key in UTF-8", "other bytes"))?,
                    ),
                    other => return Err(FormatError::new("an integer or text as key", other.describe())),
                };
                let encoded = before.get(..before.len().saturating_sub(r.rest.len())).unwrap_or_default();
                if encoded <= previous {
                    let found = if encoded == previous { "the same key again" } else { "a key out of order" };
                    return Err(FormatError::new("ascending keys", found).within(key));
                }
                previous = encoded;
                read(key, r).map_err(|e| e.within(key))?;
            }
            Ok(())
        })
    }
}

/// What is reserved for what is written: claims, and proofs in the batch form, seldom have more.
const USUAL_BYTES: usize = 1024;
/// Likewise for the entries of a map.
const USUAL_ENTRIES: usize = 24;

/// The value of a member that must be there.
pub(crate) fn required<T>(member: Option<T>, key: i64) -> Result<T> {
    member.ok_or_else(|| FormatError::new("the member", "none").within(key))
}

/// Writes items one behind the other. Only deterministic forms can be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// The bytes of what `write` writes.
    pub(crate) fn encode(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut w = Writer { out: Vec::with_capacity(USUAL_BYTES) };
        write(&mut w);
        w.out
    }

    /// A head in its shortest form.
    fn head(&mut self, major: u8, n: u64) {
        let first = major << 5;
        if let Ok(n) = u8::try_from(n) {
            if n < ONE_BYTE {
                self.out.push(first | n);
            } else {
                self.out.extend_from_slice(&[first | ONE_BYTE, n]);
            }
        } else if let Ok(n) = u16::try_from(n) {
            self.out.push(first | TWO_BYTES);
            self.out.extend_from_slice(&n.to_be_bytes());
        } else if let Ok(n) = u32::try_from(n) {
            self.out.push(first | FOUR_BYTES);
            self.out.extend_from_slice(&n.to_be_bytes());
        } else {
            self.out.push(first | EIGHT_BYTES);
            self.out.extend_from_slice(&n.to_be_bytes());
        }
    }

    pub(crate) fn int(&mut self, i: i64) {
        match u64::try_from(i) {
            Ok(n) => self.head(POSITIVE, n),
            // Not negative, since `i` is.
            Err(_) => self.head(NEGATIVE, (!i).unsigned_abs()),
        }
    }

    /// A non-negative integer. One above 2^63−1 is written as such and refused by every reader;
    /// what is encoded is therefore read again before it leaves the crate.
    pub(crate) fn uint(&mut self, n: u64) {
        self.head(POSITIVE, n);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.head(BYTES, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn bool(&mut self, b: bool) {
        self.head(SIMPLE, if b { TRUE } else { FALSE }.into());
    }

    /// The head of an array; its `len` elements are to follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.head(ARRAY, len as u64);
    }

    /// An array of one kind of element.
    pub(crate) fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.array(items.len());
        items.for_each(|item| write(self, item));
    }

    /// Tag 18; its content is to follow.
    pub(crate) fn sign1(&mut self) {
        self.head(TAG, TAG_COSE_SIGN1);
    }

    /// A map, whose entries are put in order.
    pub(crate) fn map(&mut self, fill: impl FnOnce(&mut MapWriter)) {
        let mut map = MapWriter {
            written: Writer { out: Vec::with_capacity(USUAL_BYTES) },
            entries: Vec::with_capacity(USUAL_ENTRIES),
        };
        fill(&mut map);
        let MapWriter { written, mut entries } = map;
        let bytes = |range: &Range<usize>| written.out.get(range.clone()).unwrap_or_default();
        entries.sort_by(|a, b| bytes(&a.key).cmp(bytes(&b.key)));
        self.head(MAP, entries.len() as u64);
        for entry in &entries {
            self.out.extend_from_slice(bytes(&entry.key));
            self.out.extend_from_slice(bytes(&entry.value));
        }
    }
}

/// The entries of a map, written one behind the other in any order. A key that is written twice is
/// refused by the reading that follows every writing.
#[derive(Clone, Debug, Default)]
pub(crate) struct MapWriter {
    written: Writer,
    entries: Vec<Entry>,
}

/// Where an entry's parts were written.
#[derive(Clone, Debug)]
struct Entry {
    key: Range<usize>,
    value: Range<usize>,
}

impl MapWriter {
    pub(crate) fn int(&mut self, key: i64, write: impl FnOnce(&mut Writer)) {
        self.entry(|w| w.int(key), write);
    }

    pub(crate) fn text(&mut self, key: &str, write: impl FnOnce(&mut Writer)) {
        self.entry(|w| w.text(key), write);
    }

    fn entry(&mut self, key: impl FnOnce(&mut Writer), value: impl FnOnce(&mut Writer)) {
        let begin = self.written.out.len();
        key(&mut self.written);
        let between = self.written.out.len();
        value(&mut self.written);
        self.entries.push(Entry { key: begin..between, value: between..self.written.out.len() });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Any item of the format's CBOR, for the laws below.
    #[derive(Clone, Debug, PartialEq)]
    enum Value {
        Int(i64),
        Bytes(Vec<u8>),
        Text(String),
        Bool(bool),
        Array(Vec<Value>),
        Map(BTreeMap<Vec<u8>, (Value, Value)>),
        Sign1(Box<Value>),
    }

    fn read(r: &mut Reader<'_>) -> Result<Value> {
        Ok(match r.peek()? {
            Kind::Int => Value::Int(r.int()?),
            Kind::Bytes => Value::Bytes(r.bytes()?.to_vec()),
            Kind::Text => Value::Text(r.text()?.to_owned()),
            Kind::Bool => Value::Bool(r.bool()?),
            Kind::Array => Value::Array(r.list(0, usize::MAX, read)?),
            Kind::Sign1 => Value::Sign1(Box::new(r.sign1(read)?)),
            Kind::Map => {
                let mut map = BTreeMap::new();
                r.map(|k, r| {
                    let key = match k {
                        Key::Int(i) => Value::Int(i),
                        Key::Text(t) => Value::Text(t.to_owned()),
                    };
                    map.insert(encode(&key), (key, read(r)?));
                    Ok(())
                })?;
                Value::Map(map)
            }
        })
    }

    fn write(w: &mut Writer, v: &Value) {
        match v {
            Value::Int(i) => w.int(*i),
            Value::Bytes(b) => w.bytes(b),
            Value::Text(t) => w.text(t),
            Value::Bool(b) => w.bool(*b),
            Value::Array(items) => w.list(items.iter(), write),
            Value::Sign1(v) => {
                w.sign1();
                write(w, v);
            }
            Value::Map(m) => w.map(|map| {
                m.values().for_each(|(k, v)| match k {
                    Value::Int(i) => map.int(*i, |w| write(w, v)),
                    Value::Text(t) => map.text(t, |w| write(w, v)),
                    _ => unreachable!("keys are integers or text"),
                });
            }),
        }
    }

    fn encode(v: &Value) -> Vec<u8> {
        Writer::encode(|w| write(w, v))
    }

    fn decode(bytes: &[u8]) -> Result<Value> {
        Reader::all(bytes, read)
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            (-300i64..300).prop_map(Value::Int),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
            ".{0,12}".prop_map(Value::Text),
            any::<bool>().prop_map(Value::Bool),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            let key = prop_oneof![any::<i64>().prop_map(Value::Int), "[a-z]{0,3}".prop_map(Value::Text)];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                inner.clone().prop_map(|v| Value::Sign1(Box::new(v))),
                prop::collection::vec((key, inner), 0..5)
                    .prop_map(|kv| Value::Map(kv.into_iter().map(|(k, v)| (encode(&k), (k, v))).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v in values()) {
            prop_assert_eq!(decode(&encode(&v)).unwrap(), v);
        }

        /// Whatever comes, an answer and no panic; and what is accepted has no second form.
        #[test]
        fn fuzz_any_bytes_are_refused_or_have_one_form(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(v) = decode(&bytes) {
                prop_assert_eq!(encode(&v), bytes);
            }
        }

        /// The same near the valid, where random bytes hardly get.
        #[test]
        fn fuzz_changed_bytes_are_refused_or_have_one_form(v in values(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = encode(&v);
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(v) = decode(&bytes) {
                prop_assert_eq!(encode(&v), bytes);
            }
        }
    }

    #[test]
    fn refuses_what_the_format_refuses() {
        let cases: &[(&[u8], &str)] = &[
            (&[], "the end of the bytes"),
            (&[0x18, 0x17], "not the shortest"),
            (&[0x19, 0x00, 0xff], "not the shortest"),
            (&[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "not the shortest"),
            (&[0x58, 0x01, 0x00], "not the shortest"),
            (&[0x78, 0x01, 0x61], "not the shortest"),
            (&[0xd8, 0x12, 0x00], ""),
            (&[0xd2, 0x18, 0x12], "not the shortest"),
            (&[0x1b, 0x80, 0, 0, 0, 0, 0, 0, 0], "above 2^63"),
            (&[0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0], "below"),
            (&[0x5f, 0x41, 0x00, 0xff], "indefinite"),
            (&[0x7f, 0xff], "indefinite"),
            (&[0x9f, 0xff], "indefinite"),
            (&[0xbf, 0xff], "indefinite"),
            (&[0xff], "indefinite"),
            (&[0xa2, 0x02, 0x00, 0x01, 0x00], "out of order"),
            (&[0xa2, 0x01, 0x00, 0x01, 0x00], "same key"),
            (&[0xa2, 0x61, 0x61, 0x00, 0x20, 0x00], "out of order"),
            (&[0xa1, 0xf4, 0x00], "false"),
            (&[0x00, 0x00], "1 more bytes"),
            (&[0xf9, 0x3c, 0x00], "float"),
            (&[0xfa, 0, 0, 0, 0], "float"),
            (&[0xfb, 0, 0, 0, 0, 0, 0, 0, 0], "float"),
            (&[0xf6], "null"),
            (&[0xf7], "simple"),
            (&[0xe0], "simple"),
            (&[0xf8, 0x20], "simple"),
            (&[0xf8, 0x15], ""),
            (&[0xc1, 0x00], "tag other"),
            (&[0xc2, 0x41, 0x00], "big number"),
            (&[0x62, 0xc3, 0x28], "other bytes"),
            (&[0x42, 0x00], "1 left"),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "left"),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "end of the bytes"),
            (&[0x1c], "no item"),
            (&[0x19, 0x01], "no item"),
        ];
        for (bytes, found) in cases {
            let e = decode(bytes).expect_err(&format!("{bytes:02x?}"));
            assert!(e.found().contains(found), "{bytes:02x?}: {e}");
        }
        assert_eq!(decode(&[0x1b, 0x7f, 255, 255, 255, 255, 255, 255, 255]).unwrap(), Value::Int(i64::MAX));
        assert_eq!(decode(&[0x3b, 0x7f, 255, 255, 255, 255, 255, 255, 255]).unwrap(), Value::Int(i64::MIN));
    }

    #[test]
    fn nests_sixteen_deep_and_no_deeper() {
        let nested = |n: usize| [vec![0x81; n], vec![0x00]].concat();
        assert!(decode(&nested(16)).is_ok());
        assert_eq!(decode(&nested(17)).unwrap_err().expected(), "a depth of at most 16");
        assert!(decode(&nested(1_000_000)).is_err());
    }
}
