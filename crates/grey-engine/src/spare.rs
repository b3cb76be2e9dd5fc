//! Memory for the outputs of runs, used again: fresh memory costs a page fault for each 4 KiB, which is more
//! than the copy itself.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::memory::Segment;

/// Outputs below this take what the allocator gives: it has small memory at hand.
const BYTES_MIN: usize = 128 << 10;
/// Larger memory is not kept.
const BYTES_MAX: usize = 64 << 20;
/// Pieces kept of one host.
const PIECES_MAX: usize = 2;
/// A piece is not used for an output that needs less than this part of it.
const WASTE_MAX: usize = 4;

/// One host's. Pieces come back when the last slice of their output is dropped.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// Copies `len` bytes at `offset` of a segment out; `None` if they are not inside.
    pub(crate) fn copy_out(self: &Arc<Self>, segment: &Segment, offset: usize, len: usize) -> Option<Bytes> {
        if !(BYTES_MIN..=BYTES_MAX).contains(&len) {
            return segment.copy_out(offset, len, Vec::new()).map(Bytes::from);
        }
        let bytes = segment.copy_out(offset, len, self.take(len))?;
        Some(Bytes::from_owner(Lent { bytes, home: Arc::downgrade(self) }))
    }

    fn take(&self, len: usize) -> Vec<u8> {
        let mut pieces = self.0.lock();
        let fits = |v: &Vec<u8>| v.capacity() >= len && v.capacity() / WASTE_MAX <= len;
        pieces.iter().position(fits).map(|at| pieces.swap_remove(at)).unwrap_or_default()
    }

    /// Gives up pieces of a size that `keep` does not want.
    pub(crate) fn retain(&self, keep: impl Fn(usize) -> bool) {
        self.0.lock().retain(|piece| keep(piece.capacity()));
    }

    fn give_back(&self, piece: Vec<u8>) {
        let mut pieces = self.0.lock();
        // The newest fits the outputs of today.
        if pieces.len() == PIECES_MAX {
            pieces.remove(0);
        }
        pieces.push(piece);
    }
}

/// A piece while an output is in it.
struct Lent {
    bytes: Vec<u8>,
    home: Weak<Spare>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(byte: u8) -> Segment {
        let s = Segment::plain(4 << 20).unwrap();
        assert!(s.copy_in(0, &vec![byte; 4 << 20]));
        s
    }

    #[test]
    fn memory_is_used_again_once_nobody_has_a_slice_of_it() {
        let spare = Arc::new(Spare::default());
        let first = spare.copy_out(&segment(1), 0, 1 << 20).unwrap();
        let (at, slice) = (first.as_ptr(), first.slice(5..9));
        drop(first);
        let second = spare.copy_out(&segment(2), 0, 1 << 20).unwrap();
        assert_ne!(second.as_ptr(), at, "a slice of it is in use");
        assert_eq!(slice[..], [1; 4]);
        drop(slice);
        let third = spare.copy_out(&segment(3), 3, (1 << 20) - 9).unwrap();
        assert_eq!((third.as_ptr(), third.len()), (at, (1 << 20) - 9));
        assert!(third.iter().all(|b| *b == 3) && second.iter().all(|b| *b == 2));
    }

    #[test]
    fn little_is_kept_and_none_of_it_wasted() {
        let spare = Arc::new(Spare::default());
        let s = segment(7);
        let many: Vec<Bytes> = (0..10).map(|_| spare.copy_out(&s, 0, 4 << 20).unwrap()).collect();
        drop(many);
        assert_eq!(spare.0.lock().len(), PIECES_MAX);
        assert!(spare.copy_out(&s, 0, BYTES_MIN).is_some());
        assert_eq!(spare.0.lock().len(), PIECES_MAX, "4 MiB are not lent for 128 KiB");
        assert_eq!(spare.copy_out(&s, 1, 10).unwrap()[..], [7; 10]);
        assert!(spare.copy_out(&s, 1, 4 << 20).is_none());
        let late = spare.copy_out(&s, 0, 1 << 20).unwrap();
        drop(spare);
        assert_eq!(late.len(), 1 << 20, "an output outlives its host");
    }
}
