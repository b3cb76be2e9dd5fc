//! Both ends of a host's control socket without a process behind it, for `fuzz/` alone.

use std::{io, os::unix::net::UnixStream as BlockingStream, sync::Arc, time::Duration};

use tokio::{net::UnixStream, sync::watch};

use crate::{
    engine::EngineInfo,
    handle::{Hello, Host, Inner},
    host::{OpenEngine, host_loop},
    link::Link,
    wire::{HostEnd, NodeEnd},
};

/// The node's end: a host that has said Hello and whose other answers come from `stream`.
pub fn node_end(stream: UnixStream, engine: EngineInfo, outputs_bytes_max: usize, load_timeout: Duration) -> Host {
    let (_, exit) = watch::channel(None);
    let link = Link::new(NodeEnd::process(stream), true, outputs_bytes_max);
    Host(Arc::new(Inner {
        hello: Hello { engine, containment: Default::default() },
        process: None,
        exit,
        link: tokio::sync::Mutex::new(link),
        load_timeout,
    }))
}

/// The host's end: obeys what comes over `stream`, without containing this process.
pub fn host_end(stream: BlockingStream, open: OpenEngine) -> io::Result<()> {
    host_loop(&mut HostEnd::Process(stream), open, false)
}
