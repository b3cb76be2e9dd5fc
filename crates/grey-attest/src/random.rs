use std::io;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Where keys, ids and nonces come from. Tests pass a fixed one; a node passes [`OsRandom`] and
/// nothing else, since session keys are drawn from it.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// The source's own; `bytes` is then of no use.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The kernel's generator (`getrandom`), which waits until it has been seeded.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match getrandom(&mut *bytes, GetRandomFlags::empty()) {
                Ok(n) => bytes = bytes.split_at_mut(n).1,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_all_of_it_anew() {
        let (mut a, mut b) = ([0; 1000], [0; 1000]);
        OsRandom.fill(&mut a).unwrap();
        OsRandom.fill(&mut b).unwrap();
        assert_ne!(a, b);
        assert_ne!(a[984..], [0; 16]);
        OsRandom.fill(&mut []).unwrap();
    }
}
