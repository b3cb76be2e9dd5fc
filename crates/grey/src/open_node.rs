//! Puts a node together from its configuration: for `grey serve`, and for programs that embed one.

use std::{fs::File, io::Read as _, path::Path};

use grey_core::{Error, Result};
use grey_registry::DataFolder;
use grey_server::NodeConfig;
use grey_serving::Node;

use crate::{HostContext, local};

/// Bytes of the key of the tenants' tags.
const TENANT_TAG_KEY_BYTES: usize = 32;

/// Starts a node on the registry in `data`, which no other node may use.
///
/// # Errors
/// A file of the configuration or a folder that cannot be used.
pub async fn open_node(config: &NodeConfig, data: &Path, context: HostContext) -> Result<Node> {
    let mut serving = config.to_serving();
    serving.tenant_tag_key = config.tenant_tag_key_file.as_deref().map(tenant_tag_key).transpose()?;
    let folder = DataFolder::open(data)?;
    let engines = local::engines(config, context, serving.inflight_bytes_max);
    Node::start(serving, folder, engines).await
}

fn tenant_tag_key(path: &Path) -> Result<[u8; TENANT_TAG_KEY_BYTES]> {
    let at = |e: std::io::Error| Error::invalid(format!("cannot read {} (tenant_tag_key_file): {e}", path.display()));
    // One byte more, to see that there is one.
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(TENANT_TAG_KEY_BYTES as u64 + 1).read_to_end(&mut bytes)).map_err(at)?;
    bytes.try_into().map_err(|b: Vec<u8>| {
        let found = if b.len() > TENANT_TAG_KEY_BYTES { "more".to_owned() } else { b.len().to_string() };
        Error::invalid(format!(
            "{} (tenant_tag_key_file): expected exactly {TENANT_TAG_KEY_BYTES} bytes, found {found}; make one with: \
             head -c {TENANT_TAG_KEY_BYTES} /dev/urandom > FILE",
            path.display()
        ))
    })
}
