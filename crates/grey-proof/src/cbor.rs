//! Deterministic CBOR (RFC 8949 §4.2.1) as far as the format uses it: a writer that has one
//! encoding per value, and a reader that takes nothing else.
//!
//! Heads are cut by `ciborium-ll`; the rules are ours, since no CBOR library refuses what is not
//! deterministic. (`ciborium`'s own `Value` is built before anything could be refused; `minicbor`'s
//! licence is not on this project's list.) A head is accepted only if writing it again gives the
//! bytes that came, which rules out every longer form at once.

use std::ops::Range;

use ciborium_ll::{Decoder, Encoder, Header, simple, tag};

use crate::FormatError;
use crate::error::shown;

/// Deepest nesting of arrays, maps and tags.
const DEPTH_MAX: u8 = 16;
/// COSE_Sign1 (RFC 9052 §2), the only tag of the format.
const TAG_COSE_SIGN1: u64 = 18;
/// Longest head: one byte and eight of argument.
const HEAD_BYTES_MAX: usize = 9;

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
        let refused = |found: &str| FormatError::new("deterministic CBOR", found);
        let window = self.rest.get(..self.rest.len().min(HEAD_BYTES_MAX)).unwrap_or_default();
        if window.is_empty() {
            return Err(refused("the end of the bytes"));
        }
        let mut decoder = Decoder::from(window);
        let header = decoder.pull().map_err(|_| refused("bytes that begin no item"))?;
        let (came, rest) = self.rest.split_at_checked(decoder.offset()).ok_or_else(|| refused("a short item"))?;
        let head = match header {
            Header::Positive(n) => i64::try_from(n).ok().map(Head::Int).ok_or("an integer above 2^63−1"),
            // −1 − n is the complement of n.
            Header::Negative(n) => i64::try_from(n).ok().map(|n| Head::Int(!n)).ok_or("an integer below −2^63"),
            Header::Bytes(Some(n)) => Ok(Head::Bytes(n)),
            Header::Text(Some(n)) => Ok(Head::Text(n)),
            Header::Array(Some(n)) => Ok(Head::Array(n)),
            Header::Map(Some(n)) => Ok(Head::Map(n)),
            Header::Simple(simple::FALSE) => Ok(Head::Bool(false)),
            Header::Simple(simple::TRUE) => Ok(Head::Bool(true)),
            Header::Tag(TAG_COSE_SIGN1) => Ok(Head::Sign1),
            Header::Simple(simple::NULL) => Err("null"),
            Header::Simple(_) => Err("a simple value other than true and false"),
            Header::Float(_) => Err("a float"),
            Header::Tag(tag::BIGPOS | tag::BIGNEG) => Err("a big number"),
            Header::Tag(_) => Err("a tag other than 18"),
            Header::Break | Header::Bytes(None) | Header::Text(None) | Header::Array(None) | Header::Map(None) => {
                Err("an indefinite length")
            }
        }
        .map_err(refused)?;
        let mut again = HeadBytes::default();
        push(&mut again, header);
        if again.bytes() != came {
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
        let mut w = Writer::default();
        write(&mut w);
        w.out
    }

    fn head(&mut self, header: Header) {
        push(VecWrite(&mut self.out), header);
    }

    pub(crate) fn int(&mut self, i: i64) {
        self.head(match u64::try_from(i) {
            Ok(n) => Header::Positive(n),
            // Not negative, since `i` is.
            Err(_) => Header::Negative((!i).unsigned_abs()),
        });
    }

    /// A non-negative integer. One above 2^63−1 is written as such and refused by every reader;
    /// what is encoded is therefore read again before it leaves the crate.
    pub(crate) fn uint(&mut self, n: u64) {
        self.head(Header::Positive(n));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.head(Header::Bytes(Some(bytes.len())));
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.head(Header::Text(Some(text.len())));
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn bool(&mut self, b: bool) {
        self.head(Header::Simple(if b { simple::TRUE } else { simple::FALSE }));
    }

    /// The head of an array; its `len` elements are to follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.head(Header::Array(Some(len)));
    }

    /// An array of one kind of element.
    pub(crate) fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.array(items.len());
        items.for_each(|item| write(self, item));
    }

    /// Tag 18; its content is to follow.
    pub(crate) fn sign1(&mut self) {
        self.head(Header::Tag(TAG_COSE_SIGN1));
    }

    /// A map, whose entries are put in order.
    pub(crate) fn map(&mut self, fill: impl FnOnce(&mut MapWriter)) {
        let mut map = MapWriter::default();
        fill(&mut map);
        let MapWriter { written, mut entries } = map;
        let bytes = |range: &Range<usize>| written.out.get(range.clone()).unwrap_or_default();
        entries.sort_by(|a, b| bytes(&a.key).cmp(bytes(&b.key)));
        self.head(Header::Map(Some(entries.len())));
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

/// Writes a head in its shortest form.
fn push<W: ciborium_io::Write>(to: W, header: Header) {
    // Neither a vector nor a buffer of the longest head can be too short, and no float is ever pushed.
    let pushed = Encoder::from(to).push(header);
    debug_assert!(pushed.is_ok());
}

/// A head, kept off the heap: every head that is read is written again.
#[derive(Clone, Copy, Debug, Default)]
struct HeadBytes {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl HeadBytes {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl ciborium_io::Write for &mut HeadBytes {
    type Error = ();

    fn write_all(&mut self, data: &[u8]) -> std::result::Result<(), ()> {
        let end = self.len.saturating_add(data.len());
        self.bytes.get_mut(self.len..end).ok_or(())?.copy_from_slice(data);
        self.len = end;
        Ok(())
    }

    fn flush(&mut self) -> std::result::Result<(), ()> {
        Ok(())
    }
}

struct VecWrite<'a>(&'a mut Vec<u8>);

impl ciborium_io::Write for VecWrite<'_> {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, data: &[u8]) -> std::result::Result<(), Self::Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> std::result::Result<(), Self::Error> {
        Ok(())
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
