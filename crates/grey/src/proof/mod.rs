//! `grey proof …`: what can be done with a proof once it is there.

mod compare;
mod file;
mod replay;
mod show;
mod verify;
mod words;

pub(crate) use replay::replay;
pub(crate) use show::show;
pub(crate) use verify::verify;
