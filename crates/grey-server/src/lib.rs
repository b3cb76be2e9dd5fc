//! The HTTP front of a node: wire formats, limits and guards around [`grey_serving::Node`]. Knows
//! protocols and nothing of engines; all decisions about models are the node's.

pub mod config;
pub mod oip;

pub use config::NodeConfig;
