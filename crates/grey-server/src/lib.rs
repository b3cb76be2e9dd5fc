//! The HTTP front of a node: wire formats, limits and guards around [`grey_serving::Node`]. Knows
//! protocols and nothing of engines; all decisions about models are the node's.

mod clock;
pub mod config;
mod connection;
mod http;
mod known;
pub mod oip;
mod server;
mod settings;

pub use config::NodeConfig;
pub use known::known_tensors;
pub use server::Server;
pub use settings::Settings;
