use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Bytes of a tensor as they arrived: one slice, or several where a body came in several frames.
/// Cloning and slicing share memory; rows are copied once, by [`Payload::copy_to`], to the place
/// from which a model reads them.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    // Invariant: no chunk is empty; `len` is their sum.
    chunks: Chunks,
    len: usize,
}

#[derive(Clone, Debug, Default)]
enum Chunks {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks, in order; none is empty.
    pub fn chunks(&self) -> &[Bytes] {
        match &self.chunks {
            Chunks::None => &[],
            Chunks::One(b) => std::slice::from_ref(b),
            Chunks::Many(v) => v,
        }
    }

    /// Appends a chunk without copying it.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        self.chunks = match std::mem::take(&mut self.chunks) {
            Chunks::None => Chunks::One(chunk),
            Chunks::One(first) => Chunks::Many(vec![first, chunk]),
            Chunks::Many(mut v) => {
                v.push(chunk);
                Chunks::Many(v)
            }
        };
    }

    /// The bytes `range`, sharing memory. `None` if the range is not within the payload. Walks from
    /// the first chunk: for slices one behind the other take a [`Payload::cursor`].
    pub fn slice(&self, range: Range<usize>) -> Option<Payload> {
        let mut cursor = self.cursor();
        cursor.skip(range.start)?;
        cursor.take(range.end.checked_sub(range.start)?)
    }

    /// A position from which slices are taken one behind the other, each chunk being walked once.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { chunks: self.chunks(), within: 0, left: self.len }
    }

    /// Copies everything to the front of `out` and returns the number of bytes, or `None` if
    /// `out` is shorter than the payload (nothing is written then).
    pub fn copy_to(&self, out: &mut [u8]) -> Option<usize> {
        let mut rest = out.get_mut(..self.len)?;
        for chunk in self.chunks() {
            let (head, tail) = rest.split_at_mut(chunk.len());
            head.copy_from_slice(chunk);
            rest = tail;
        }
        Some(self.len)
    }

    /// All bytes in one piece: shared where there is one chunk, else copied.
    pub fn to_contiguous(&self) -> Bytes {
        match &self.chunks {
            Chunks::None => Bytes::new(),
            Chunks::One(b) => b.clone(),
            Chunks::Many(v) => {
                let mut out = BytesMut::with_capacity(self.len);
                v.iter().for_each(|c| out.extend_from_slice(c));
                out.freeze()
            }
        }
    }
}

/// A position in a [`Payload`].
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    // Invariant: `within` is less than the length of the first chunk, or 0 if there is none.
    chunks: &'a [Bytes],
    within: usize,
    left: usize,
}

impl Cursor<'_> {
    /// Bytes behind the position.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next `len` bytes, sharing memory. `None`, and the position stays, if fewer are left.
    pub fn take(&mut self, len: usize) -> Option<Payload> {
        let mut out = Payload::default();
        self.step(len, |piece, range| out.push(piece.slice(range)))?;
        Some(out)
    }

    /// Leaves the next `len` bytes out. `None`, and the position stays, if fewer are left.
    pub fn skip(&mut self, len: usize) -> Option<()> {
        self.step(len, |_, _| {})
    }

    fn step(&mut self, len: usize, mut each: impl FnMut(&Bytes, Range<usize>)) -> Option<()> {
        self.left = self.left.checked_sub(len)?;
        let mut wanted = len;
        while wanted > 0 {
            let (first, rest) = self.chunks.split_first()?;
            let end = self.within.saturating_add(wanted).min(first.len());
            each(first, self.within..end);
            wanted -= end - self.within;
            (self.chunks, self.within) = if end == first.len() { (rest, 0) } else { (self.chunks, end) };
        }
        Some(())
    }
}

impl From<Bytes> for Payload {
    fn from(b: Bytes) -> Self {
        let mut p = Payload::default();
        p.push(b);
        p
    }
}

impl From<Vec<u8>> for Payload {
    fn from(v: Vec<u8>) -> Self {
        Bytes::from(v).into()
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(iter: I) -> Self {
        let mut p = Payload::default();
        iter.into_iter().for_each(|c| p.push(c));
        p
    }
}

/// Equal when the bytes are equal, however they are cut.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.to_contiguous() == other.to_contiguous()
    }
}

impl Eq for Payload {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Slicing and copying a chunked payload is slicing and copying its bytes.
        #[test]
        fn behaves_like_its_bytes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6),
                                  a in 0usize..40, b in 0usize..40) {
            let flat: Vec<u8> = chunks.concat();
            let p: Payload = chunks.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(p.len(), flat.len());
            prop_assert_eq!(&p.to_contiguous()[..], &flat[..]);
            match (p.slice(a..b), flat.get(a..b)) {
                (Some(s), Some(f)) => {
                    let mut out = vec![0; f.len() + 3];
                    prop_assert_eq!(s.copy_to(&mut out), Some(f.len()));
                    prop_assert_eq!(&out[..f.len()], f);
                    if !f.is_empty() {
                        prop_assert!(s.copy_to(&mut out[..f.len() - 1]).is_none());
                    }
                }
                (None, None) => {}
                (s, f) => prop_assert!(false, "{s:?} against {f:?}"),
            }
        }

        /// Slices one behind the other are those of the flat bytes, and no chunk is walked again.
        #[test]
        fn a_cursor_walks_once(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
                               steps in prop::collection::vec((0usize..12, any::<bool>()), 0..20)) {
            let flat: Vec<u8> = chunks.concat();
            let p: Payload = chunks.into_iter().map(Bytes::from).collect();
            let (mut cursor, mut at, mut pieces, mut taken) = (p.cursor(), 0, 0, 0);
            for (len, take) in steps {
                prop_assert_eq!(cursor.left(), flat.len() - at);
                let fits = at + len <= flat.len();
                if take {
                    let slice = cursor.take(len);
                    prop_assert_eq!(slice.as_ref().map(|s| s.to_contiguous()), flat.get(at..at + len).map(Bytes::copy_from_slice));
                    taken += usize::from(slice.is_some());
                    pieces += slice.map_or(0, |s| s.chunks().len());
                } else {
                    prop_assert_eq!(cursor.skip(len).is_some(), fits);
                }
                at += if fits { len } else { 0 };
            }
            // A slice adds one visit to a chunk that another has begun.
            prop_assert!(pieces <= p.chunks().len() + taken);
        }
    }
}
