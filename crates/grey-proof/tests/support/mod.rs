//! Bundles in the making: whole, or broken at one place and signed all the same.

pub mod item;
pub mod points;
pub mod scene;
