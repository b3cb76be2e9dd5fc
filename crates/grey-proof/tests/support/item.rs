//! CBOR as a tree that can be bent in ways that the crate's own writer refuses.

/// One item. Maps keep the order in which they are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Int(i64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    Tag18(Box<Item>),
    Bool(bool),
    /// Bytes that stand there as they are.
    Raw(Vec<u8>),
}

impl From<i64> for Item {
    fn from(i: i64) -> Item {
        Item::Int(i)
    }
}

impl From<&str> for Item {
    fn from(t: &str) -> Item {
        Item::Text(t.to_owned())
    }
}

impl<const N: usize> From<[u8; N]> for Item {
    fn from(b: [u8; N]) -> Item {
        Item::Bytes(b.to_vec())
    }
}

impl From<Vec<Item>> for Item {
    fn from(items: Vec<Item>) -> Item {
        Item::Array(items)
    }
}

fn head(major: u8, n: u64) -> Vec<u8> {
    let first = |low: u8| (major << 5) | low;
    match n {
        0..24 => vec![first(n as u8)],
        24..0x100 => vec![first(24), n as u8],
        0x100..0x1_0000 => [&[first(25)][..], &(n as u16).to_be_bytes()].concat(),
        0x1_0000..0x1_0000_0000 => [&[first(26)][..], &(n as u32).to_be_bytes()].concat(),
        _ => [&[first(27)][..], &n.to_be_bytes()].concat(),
    }
}

impl Item {
    /// The encoding, heads in their shortest form.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Item::Int(i) if *i >= 0 => head(0, *i as u64),
            Item::Int(i) => head(1, !*i as u64),
            Item::Bytes(b) => [head(2, b.len() as u64), b.clone()].concat(),
            Item::Text(t) => [head(3, t.len() as u64), t.as_bytes().to_vec()].concat(),
            Item::Array(items) => {
                items.iter().fold(head(4, items.len() as u64), |out, item| [out, item.encode()].concat())
            }
            Item::Map(entries) => {
                entries.iter().fold(head(5, entries.len() as u64), |out, (k, v)| [out, k.encode(), v.encode()].concat())
            }
            Item::Tag18(item) => [head(6, 18), item.encode()].concat(),
            Item::Bool(b) => vec![if *b { 0xf5 } else { 0xf4 }],
            Item::Raw(bytes) => bytes.clone(),
        }
    }

    /// The encoding in a byte string.
    pub fn embed(&self) -> Item {
        Item::Bytes(self.encode())
    }

    /// Of bytes that this crate has written.
    pub fn decode(bytes: &[u8]) -> Item {
        let (item, rest) = Item::first(bytes);
        assert!(rest.is_empty());
        item
    }

    fn first(bytes: &[u8]) -> (Item, &[u8]) {
        let low = bytes[0] & 31;
        let extra = if low < 24 { 0 } else { 1usize << (low - 24) };
        let n = match extra {
            0 => u64::from(low),
            _ => bytes[1..=extra].iter().fold(0, |n, b| (n << 8) | u64::from(*b)),
        };
        let (len, mut rest) = (n as usize, &bytes[1 + extra..]);
        let mut next = || {
            let (item, after) = Item::first(rest);
            rest = after;
            item
        };
        match bytes[0] >> 5 {
            0 => (Item::Int(n as i64), rest),
            1 => (Item::Int(!(n as i64)), rest),
            2 => (Item::Bytes(rest[..len].to_vec()), &rest[len..]),
            3 => (Item::Text(String::from_utf8(rest[..len].to_vec()).unwrap()), &rest[len..]),
            4 => (Item::Array((0..len).map(|_| next()).collect()), rest),
            5 => (Item::Map((0..len).map(|_| (next(), next())).collect()), rest),
            6 => (Item::Tag18(Box::new(next())), rest),
            _ => (Item::Bool(low == 21), rest),
        }
    }

    fn entries(&mut self) -> &mut Vec<(Item, Item)> {
        match self {
            Item::Map(entries) => entries,
            other => panic!("no map: {other:?}"),
        }
    }

    /// The value of a member.
    pub fn at(&mut self, key: i64) -> &mut Item {
        let entries = self.entries();
        &mut entries.iter_mut().find(|(k, _)| *k == Item::Int(key)).unwrap().1
    }

    /// An element of an array, also of one under tag 18.
    pub fn nth(&mut self, index: usize) -> &mut Item {
        match self {
            Item::Array(items) => &mut items[index],
            Item::Tag18(item) => item.nth(index),
            other => panic!("no array: {other:?}"),
        }
    }

    /// Sets a member, at its place in the order.
    pub fn put(&mut self, key: impl Into<Item>, value: impl Into<Item>) {
        let key = key.into();
        let entries = self.entries();
        entries.retain(|(k, _)| *k != key);
        entries.push((key, value.into()));
        entries.sort_by_key(|(k, _)| k.encode());
    }

    /// Takes a member out.
    pub fn drop(&mut self, key: i64) {
        self.entries().retain(|(k, _)| *k != Item::Int(key));
    }

    /// Adds a member behind the others.
    pub fn push(&mut self, key: impl Into<Item>, value: impl Into<Item>) {
        self.entries().push((key.into(), value.into()));
    }

    /// Swaps two members' places.
    pub fn swap(&mut self, a: usize, b: usize) {
        self.entries().swap(a, b);
    }

    /// The content of a byte string, as a tree.
    pub fn inside(&mut self, edit: impl FnOnce(&mut Item)) {
        let Item::Bytes(bytes) = self else { panic!("no bytes: {self:?}") };
        let mut item = Item::decode(bytes);
        edit(&mut item);
        *bytes = item.encode();
    }

    /// The bytes of a byte string.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Item::Bytes(bytes) => bytes,
            other => panic!("no bytes: {other:?}"),
        }
    }
}
