//! Memory that a node shares with a host, and files that nobody can change any more.
//!
//! The node makes every segment and seals its size, so that a host can neither shrink it (which
//! would end the node by SIGBUS) nor grow it. The host may write into it at any time: no reference
//! to its bytes is ever made on the node's side, only raw copies in and out.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use crate::engine::TENSOR_ALIGN_BYTES;

/// Smallest segment: holds the tensors of most small models, so that growing is rare.
pub const SEGMENT_BYTES_MIN: usize = 64 << 10;
/// Largest segment: a batch larger than this is refused before it is copied.
pub const SEGMENT_BYTES_MAX: usize = 8 << 30;

/// Rounds up to the alignment of tensors; `None` on overflow.
pub fn align_up(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(TENSOR_ALIGN_BYTES)
}

/// Size of the segment made for `need` bytes: the next power of two within the limits, so that a
/// slowly growing need moves rarely. `None` above [`SEGMENT_BYTES_MAX`].
pub fn segment_size(need: usize) -> Option<usize> {
    let size = need.max(SEGMENT_BYTES_MIN).checked_next_power_of_two()?;
    (size <= SEGMENT_BYTES_MAX).then_some(size)
}

#[derive(Debug)]
enum Backing {
    Mapped,
    Heap(std::alloc::Layout),
}

/// A piece of memory at a fixed address, shared with another process (`process`) or with another
/// thread (`inline`).
#[derive(Debug)]
pub struct Segment {
    start: NonNull<u8>,
    len: usize,
    backing: Backing,
}

// SAFETY: a segment is an address range that stays valid until drop; all access goes through raw
// copies or through pointers whose users uphold the one-run-at-a-time rule of the protocol.
unsafe impl Send for Segment {}
// SAFETY: as above; methods that write take raw pointers and never form references.
unsafe impl Sync for Segment {}

impl Segment {
    /// Shared memory of `len` bytes, allocated now, with its descriptor for the host.
    pub fn shared(len: usize) -> io::Result<(Segment, OwnedFd)> {
        let fd = memfd_create("grey-segment", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        // Allocated ahead: a write to memory that cannot be had would end the process by SIGBUS.
        fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, len as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let segment = Segment::map(fd.as_fd(), len)?;
        Ok((segment, fd))
    }

    /// Maps a segment that the node made.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Segment> {
        let actual = rustix::fs::fstat(fd)?.st_size;
        if len == 0 || u64::try_from(actual).ok() != Some(len as u64) {
            return Err(io::Error::other(format!("a segment of {len} bytes was announced, the file has {actual}")));
        }
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; length is not zero.
        let at =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0) }?;
        let start = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Segment { start, len, backing: Backing::Mapped })
    }

    /// Memory of this process alone, zeroed, for `inline` hosts.
    pub fn plain(len: usize) -> io::Result<Segment> {
        let layout = std::alloc::Layout::from_size_align(len.max(1), TENSOR_ALIGN_BYTES).map_err(io::Error::other)?;
        // SAFETY: the layout has a size of at least 1.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Segment { start, len, backing: Backing::Heap(layout) })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the segment has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of `offset`, if `len` bytes from there are inside.
    pub fn at(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset <= end <= self.len`, so the address is within the allocation or one past it.
        (end <= self.len).then(|| unsafe { self.start.add(offset) })
    }

    /// Copies `data` to `offset`; `false` (and nothing is written) if it does not fit.
    #[must_use]
    pub fn copy_in(&self, offset: usize, data: &[u8]) -> bool {
        let Some(to) = self.at(offset, data.len()) else { return false };
        // SAFETY: `at` checked the range; `data` is ordinary memory and cannot overlap a mapping.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.as_ptr(), data.len()) };
        true
    }

    /// Writes `len` zero bytes at `offset`; `false` if they do not fit.
    #[must_use]
    pub fn zero(&self, offset: usize, len: usize) -> bool {
        let Some(to) = self.at(offset, len) else { return false };
        // SAFETY: `at` checked the range.
        unsafe { std::ptr::write_bytes(to.as_ptr(), 0, len) };
        true
    }

    /// Copies `len` bytes at `offset` out, into the memory of `out`, whose content goes; `None` if they are
    /// not inside. What comes back is the caller's own: nobody can change it afterwards.
    pub fn copy_out(&self, offset: usize, len: usize, mut out: Vec<u8>) -> Option<Vec<u8>> {
        let from = self.at(offset, len)?;
        out.clear();
        out.reserve_exact(len);
        // SAFETY: `at` checked the source; the destination has `len` bytes of capacity; after the
        // copy they are initialised. Another process may write meanwhile: the bytes are then a
        // mixture, which is the host's loss alone.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), len);
            out.set_len(len);
        }
        Some(out)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        match self.backing {
            Backing::Mapped => {
                // SAFETY: the mapping was made by `map` with this address and length.
                if let Err(e) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
                    tracing::error!("a segment could not be unmapped: {e}");
                }
            }
            // SAFETY: allocated by `plain` with this layout.
            Backing::Heap(layout) => unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) },
        }
    }
}

/// A file in memory that nobody can write, grow or shrink: what was hashed is what is loaded.
#[derive(Debug)]
pub struct SealedFile {
    fd: OwnedFd,
    len: u64,
    name: String,
}

impl SealedFile {
    /// A file to write to and then seal.
    pub fn writer(name: &str) -> io::Result<SealedFileWriter> {
        let fd = memfd_create("grey-model", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        Ok(SealedFileWriter { file: File::from(fd), name: name.to_owned() })
    }

    /// The file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its name in the version.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// See [`SealedFile::writer`].
#[derive(Debug)]
pub struct SealedFileWriter {
    file: File,
    name: String,
}

impl SealedFileWriter {
    /// No byte changes from here on.
    pub fn seal(self) -> io::Result<SealedFile> {
        let len = self.file.metadata()?.len();
        fcntl_add_seals(&self.file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(SealedFile { fd: self.file.into(), len, name: self.name })
    }
}

impl io::Write for SealedFileWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file's bytes, mapped for reading.
#[derive(Debug)]
pub struct Mapped {
    start: NonNull<u8>,
    len: usize,
}

impl Mapped {
    /// Maps `len` bytes of a file that must be sealed against writing and shrinking.
    pub fn read_only(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapped> {
        let seals = rustix::fs::fcntl_get_seals(fd)?;
        if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
            return Err(io::Error::other("the file is not sealed, so its bytes could change while they are read"));
        }
        if u64::try_from(rustix::fs::fstat(fd)?.st_size).ok() != Some(len as u64) || len == 0 {
            return Err(io::Error::other(format!("the file has not the {len} bytes that were announced")));
        }
        Mapped::any(fd, len)
    }

    /// Maps a file of a model's folder. Nobody changes such a file in place; if one is cut short all the
    /// same, reading ends this process, as it would when the runtime reads the weights beside it.
    pub(crate) fn in_folder(file: &std::fs::File) -> io::Result<Mapped> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if len == 0 {
            return Err(io::Error::other("the file is empty"));
        }
        Mapped::any(file.as_fd(), len)
    }

    fn any(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapped> {
        // SAFETY: a fresh private mapping at an address of the kernel's choice; length is not zero.
        let at = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, fd, 0) }?;
        let start = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Mapped { start, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped for reading until drop; the file is sealed, so that nobody can write or shrink
        // it, or one of a model's folder, which nobody changes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast_const(), self.len) }
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

// SAFETY: the value alone owns its mapping, which is never written and belongs to no thread.
unsafe impl Send for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `read_only` with this address and length.
        if let Err(e) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::error!("a file could not be unmapped: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn exercise(s: &Segment) {
        assert!(s.copy_in(64, b"abc"));
        assert_eq!(s.copy_out(63, 5, Vec::new()).unwrap(), b"\0abc\0");
        assert!(s.zero(64, 2));
        assert_eq!(s.copy_out(64, 3, Vec::new()).unwrap(), b"\0\0c");
        assert!(!s.copy_in(s.len() - 1, b"ab"));
        assert!(s.copy_out(usize::MAX, 2, Vec::new()).is_none());
        assert!(s.at(s.len(), 0).is_some() && s.at(s.len(), 1).is_none());
    }

    #[test]
    fn plain_memory_is_bounded() {
        exercise(&Segment::plain(4096).unwrap());
    }

    #[test]
    fn shared_memory_is_bounded_and_sealed() {
        let (s, fd) = Segment::shared(SEGMENT_BYTES_MIN).unwrap();
        exercise(&s);
        let other = Segment::map(fd.as_fd(), SEGMENT_BYTES_MIN).unwrap();
        assert!(other.copy_in(0, b"x"));
        assert_eq!(s.copy_out(0, 1, Vec::new()).unwrap(), b"x");
        assert!(rustix::fs::ftruncate(&fd, 10).is_err(), "a host must not shrink it");
        assert!(Segment::map(fd.as_fd(), SEGMENT_BYTES_MIN * 2).is_err());
    }

    #[test]
    fn a_sealed_file_cannot_be_written() {
        let mut w = SealedFile::writer("m.onnx").unwrap();
        w.write_all(b"model").unwrap();
        let f = w.seal().unwrap();
        assert_eq!((f.len(), f.name()), (5, "m.onnx"));
        assert!(rustix::io::pwrite(f.fd(), b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(f.fd(), 1).is_err());
    }

    #[test]
    fn sizes_grow_in_steps() {
        assert_eq!(segment_size(1), Some(SEGMENT_BYTES_MIN));
        assert_eq!(segment_size(SEGMENT_BYTES_MIN + 1), Some(2 * SEGMENT_BYTES_MIN));
        assert_eq!(segment_size(SEGMENT_BYTES_MAX + 1), None);
        assert_eq!(segment_size(usize::MAX), None);
        assert_eq!(align_up(65), Some(128));
    }
}
