//! Which file holds Grey's code, and its hash.
//!
//! It is the executable, or the native module in a Python process. The kernel's list of mappings says
//! which file the code came from; that a file that we can open is that very one shows by mapping it
//! beside: both mappings then have the same device and inode. Names alone would not do (the file may
//! have been replaced by an update), nor would `stat`, whose numbers differ from those of mappings on
//! overlay file systems.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::AttestError;
use crate::files::open_itself;

/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 1 << 16;
/// What the kernel puts behind the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// SHA-256 of the file that holds this code: manifest member 9. It reads all of that file, so a node
/// asks once.
///
/// # Errors
/// The file was replaced or removed while the node runs and can no longer be opened, or `/proc` is
/// not there.
pub fn code_sha256() -> Result<[u8; 32], AttestError> {
    sha256_of_file_mapped_at(code_sha256 as *const () as usize)
}

fn sha256_of_file_mapped_at(address: usize) -> Result<[u8; 32], AttestError> {
    let code = |why: String| AttestError::Code { why };
    let maps = read_maps().map_err(|e| code(format!("cannot read /proc/self/maps: {e}")))?;
    let mapping = find(&maps, address)
        .ok_or_else(|| code(format!("no mapping in /proc/self/maps contains its address {address:#x}")))?;
    if mapping.inode == 0 {
        return Err(code(format!("its address {address:#x} is in memory that comes from no file")));
    }
    let name = PathBuf::from(OsStr::from_bytes(mapping.name));
    // The last needs a privilege (CAP_CHECKPOINT_RESTORE), and is the only way to a module's file that
    // has lost its name; the executable's is always to be had by the first.
    let candidates = [
        PathBuf::from("/proc/self/exe"),
        name.clone(),
        PathBuf::from(format!("/proc/self/map_files/{:x}-{:x}", mapping.start, mapping.end)),
    ];
    for path in candidates {
        // Whatever is in the way of one, another may do; none doing is the error below.
        let Ok(mut file) = open(&path) else { continue };
        if is_mapped_file(&file, &mapping) {
            return sha256(&mut file).map_err(|e| code(format!("cannot read {}: {e}", path.display())));
        }
    }
    let what = if mapping.name.ends_with(DELETED) || name.exists() {
        "it was replaced or removed since this process started; start the node again"
    } else {
        "expected to find it there"
    };
    Err(code(format!("{} cannot be opened: {what}", name.display())))
}

/// Names from `/proc` are links by design; any other is opened only if it is no link.
fn open(path: &Path) -> io::Result<File> {
    if path.starts_with("/proc/self") { File::open(path) } else { open_itself(path) }
}

fn sha256(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn read_maps() -> io::Result<Vec<u8>> {
    std::fs::read("/proc/self/maps")
}

/// One line of `/proc/self/maps` (proc_pid_maps(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    device: &'a str,
    inode: u64,
    name: &'a [u8],
}

fn find(maps: &[u8], address: usize) -> Option<Mapping<'_>> {
    maps.split(|b| *b == b'\n').filter_map(parse).find(|m| (m.start..m.end).contains(&address))
}

/// `start-end perms offset device inode   name`; the name may hold spaces and bytes that are no text.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let (range, rest) = word(line)?;
    let (_permissions, rest) = word(rest)?;
    let (_offset, rest) = word(rest)?;
    let (device, rest) = word(rest)?;
    let (inode, rest) = word(rest)?;
    let (start, end) = range.split_once('-')?;
    Some(Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        device,
        inode: inode.parse().ok()?,
        name: rest.trim_ascii_start(),
    })
}

fn word(line: &[u8]) -> Option<(&str, &[u8])> {
    let end = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end)?;
    Some((std::str::from_utf8(word).ok()?, rest.get(1..).unwrap_or_default()))
}

/// Whether `file` is the one that `mapping` is of.
#[allow(unsafe_code, reason = "a mapping is the one thing that has the numbers that mappings have")]
fn is_mapped_file(file: &File, mapping: &Mapping<'_>) -> bool {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    const LENGTH: usize = 1;
    // SAFETY: a new private mapping at an address that the kernel chooses; nothing reads it.
    let Ok(address) = (unsafe { mmap(std::ptr::null_mut(), LENGTH, ProtFlags::READ, MapFlags::PRIVATE, file, 0) })
    else {
        return false;
    };
    let maps = read_maps().unwrap_or_default();
    let same = find(&maps, address as usize).is_some_and(|m| (m.device, m.inode) == (mapping.device, mapping.inode));
    // SAFETY: the mapping made above, of which no reference was ever made.
    if let Err(e) = unsafe { munmap(address, LENGTH) } {
        tracing::warn!("cannot unmap a page: {e}");
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plainly(path: &Path) -> [u8; 32] {
        Sha256::digest(std::fs::read(path).unwrap()).into()
    }

    #[test]
    fn of_this_test_its_executable() {
        assert_eq!(code_sha256().unwrap(), plainly(&std::env::current_exe().unwrap()));
    }

    #[test]
    fn of_a_native_module_its_file() {
        // The C library stands for a module: a function of another file than the executable.
        let address = libc_function();
        let maps = read_maps().unwrap();
        let name = PathBuf::from(OsStr::from_bytes(find(&maps, address).unwrap().name));
        assert_ne!(name, std::env::current_exe().unwrap());
        assert_eq!(sha256_of_file_mapped_at(address).unwrap(), plainly(&name));
    }

    #[allow(unsafe_code, reason = "the address of a function of another file")]
    fn libc_function() -> usize {
        unsafe extern "C" {
            fn getppid() -> i32;
        }
        getppid as *const () as usize
    }

    /// A file that was mapped as a module is, so that tests can take it away.
    struct Mapped(*mut std::ffi::c_void);

    #[allow(unsafe_code, reason = "stands for what the dynamic loader does")]
    impl Mapped {
        fn new(path: &Path) -> Mapped {
            use rustix::mm::{MapFlags, ProtFlags, mmap};
            let file = File::open(path).unwrap();
            // SAFETY: a new private mapping that nothing reads.
            Mapped(unsafe { mmap(std::ptr::null_mut(), 5000, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }.unwrap())
        }
    }

    #[allow(unsafe_code, reason = "stands for what the dynamic loader does")]
    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: the mapping made in `new`.
            unsafe { rustix::mm::munmap(self.0, 5000) }.unwrap();
        }
    }

    #[test]
    fn another_file_of_that_name_is_not_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a module.so");
        std::fs::write(&path, [7; 5000]).unwrap();
        let ours = plainly(&path);
        let mapped = Mapped::new(&path);
        let address = mapped.0 as usize + 4500;
        assert_eq!(sha256_of_file_mapped_at(address).unwrap(), ours);
        // An update puts another file in its place: with the privilege ours is still to be had.
        std::fs::write(dir.path().join("b"), [8; 5000]).unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        let replaced = |found: Result<[u8; 32], AttestError>| match found {
            Ok(hash) => assert_eq!(hash, ours),
            Err(e) => {
                let text = e.to_string();
                assert!(text.contains("a module.so") && text.contains("start the node again"), "{text}");
            }
        };
        replaced(sha256_of_file_mapped_at(address));
        std::fs::remove_file(&path).unwrap();
        replaced(sha256_of_file_mapped_at(address));
    }

    #[test]
    fn what_comes_from_no_file_is_said_so() {
        let on_the_heap = Box::new(5);
        let text = sha256_of_file_mapped_at(&raw const *on_the_heap as usize).unwrap_err().to_string();
        assert!(text.contains("from no file"), "{text}");
        assert!(sha256_of_file_mapped_at(1).unwrap_err().to_string().contains("no mapping"));
    }

    #[test]
    fn reads_lines_of_the_kernel() {
        let maps = b"7f00-8000 r-xp 00001000 fe:00 325843         /usr/lib/a b (deleted)\n\
                     8000-9000 rw-p 00000000 00:00 0 \nnonsense\n";
        let first =
            Mapping { start: 0x7f00, end: 0x8000, device: "fe:00", inode: 325_843, name: b"/usr/lib/a b (deleted)" };
        assert_eq!(find(maps, 0x7fff), Some(first));
        assert_eq!(find(maps, 0x8000).unwrap().inode, 0);
        assert_eq!(find(maps, 0x9000), None);
    }
}
