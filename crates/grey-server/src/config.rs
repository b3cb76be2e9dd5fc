//! The node's configuration file: YAML in, checked values out. Every key has a default, so that
//! `grey serve` needs no file; a key that does not exist is refused with its line and column.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use grey_core::{BatchAxis, Error, ModelId, Result};
use grey_serving::{BatchingConfig, HoldPolicy, ModelConfig, ServingConfig};
use serde::Deserialize;

/// Largest body of an inference request, unless configured; also after decompression.
pub const BODY_BYTES_MAX_DEFAULT: u64 = 256 << 20;
/// Most open connections, unless configured: well below the usual limit of descriptors of a
/// service manager, which models' hosts and files share.
pub const CONNECTIONS_MAX_DEFAULT: u32 = 4096;
/// How long a shutdown waits for queued work, unless configured: below the 30 s after which
/// container managers kill.
pub const DRAIN_SECONDS_DEFAULT: u64 = 25;
/// Where a node listens, unless configured.
pub const HTTP_DEFAULT: &str = "127.0.0.1:8000";
/// Longest time that may be configured, a day: sums with the clock stay far from overflow.
const SECONDS_MAX: u64 = 86_400;
/// Most threads or instances that may be configured per model: more than any machine has cores.
const PER_MODEL_MAX: u32 = 4096;
/// Least memory of a host that may be configured: with less no runtime starts.
const HOST_MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Longest name of a node: it stands in every proof.
const NAME_BYTES_MAX: usize = 256;
/// Most rows of one run that may be configured.
const BATCH_SIZE_MAX: u32 = 65_536;

/// Whether engines run in processes of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In a host process per model: a crash ends only the host.
    #[default]
    Process,
    /// Inside the node.
    #[serde(alias = "none")]
    Inline,
}

/// What the page at `/` may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// There is no page.
    Off,
    /// It shows the node, and runs inferences, which change nothing.
    #[default]
    Read,
    /// It also loads, unloads and removes models.
    Write,
}

impl Console {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Console::Off => "off",
            Console::Read => "read",
            Console::Write => "write",
        }
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// `HOST:PORT` for HTTP; port 0 takes a free one.
    pub http: String,
    /// More names under which browsers and operators reach this node (only with `insecure`).
    pub http_names: Vec<String>,
    /// Folder of the registry; `None`: the caller's default.
    pub data: Option<PathBuf>,
    /// Listen on other than loopback addresses although nobody has to authenticate.
    pub insecure: bool,
    /// Whether the protocol's `load` may bring files, which are then registered.
    pub allow_upload: bool,
    /// Whether operators may have proofs replayed, which runs models at their word; `None`: only on a
    /// node that listens for this machine alone.
    pub allow_replay: Option<bool>,
    /// What the page at `/` may do.
    pub console: Console,
    /// The node's name in its proofs.
    pub name: String,
    /// File with the 32 bytes of the key of the tenants' tags in proofs, for nodes that are to give a
    /// tenant the same tag; `None`: a key of the node's own.
    pub tenant_tag_key_file: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
    /// Engines.
    pub engines: Engines,
    /// Where engines run.
    pub isolation: Isolation,
    /// How models are served that have no entry in `models`.
    pub batching: Batching,
    /// When a run's host is ended; `None`: measured.
    pub run_timeout_ms: Option<u64>,
    /// Whether answers are to be provable; `None`: they are.
    pub proofs: Option<OnOff>,
    /// Models with settings of their own.
    pub models: BTreeMap<ModelId, ModelEntry>,
    /// How long a shutdown waits for queued work.
    pub drain_seconds: u64,
    /// Whether readiness waits for the restored models.
    pub strict_ready: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            http: HTTP_DEFAULT.into(),
            http_names: Vec::new(),
            data: None,
            insecure: false,
            allow_upload: false,
            allow_replay: None,
            console: Console::default(),
            name: grey_serving::ISSUER_DEFAULT.into(),
            tenant_tag_key_file: None,
            limits: Limits::default(),
            engines: Engines::default(),
            isolation: Isolation::default(),
            batching: Batching::default(),
            run_timeout_ms: None,
            proofs: None,
            models: BTreeMap::new(),
            drain_seconds: DRAIN_SECONDS_DEFAULT,
            strict_ready: false,
        }
    }
}

/// Bounds of a node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest body of an inference request, also after decompression.
    pub body_bytes_max: u64,
    /// Bytes of bodies, tensors and results in flight; `None`: a quarter of the memory.
    pub inflight_bytes_max: Option<u64>,
    /// Most open connections; more wait in the system's queue.
    pub connections_max: u32,
    /// Rows that may wait per version; `None`: the node's default.
    pub queue_rows_max: Option<u32>,
    /// Private memory that one engine host may use, bytes; `None`: all of the machine's.
    pub host_memory_bytes_max: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            inflight_bytes_max: None,
            connections_max: CONNECTIONS_MAX_DEFAULT,
            queue_rows_max: None,
            host_memory_bytes_max: None,
        }
    }
}

/// Engines.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engines {
    /// ONNX Runtime.
    pub onnxruntime: OnnxRuntime,
}

/// ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnnxRuntime {
    /// The `libonnxruntime.so.*` to use; `None`: searched for.
    pub library: Option<PathBuf>,
}

/// How requests are put together; absent keys keep the value of the level above.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batching {
    /// Most rows of one run; 1 turns batching off.
    pub max_batch_size: Option<u32>,
    /// Whether a batch is held back to fill.
    pub hold: Option<Hold>,
    /// With `hold: fill`: how long the oldest row may wait.
    pub max_wait_ms: Option<u64>,
    /// Pad runs to multiples of this.
    pub pad_to_multiple: Option<u32>,
}

/// Whether a batch is held back to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// No.
    None,
    /// Until it is full or `max_wait_ms` has passed.
    Fill,
}

/// Threads of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a number of threads or 'auto'")]
pub enum Threads {
    /// This many.
    Count(u32),
    /// The node measures.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Measured.
    Auto,
}

/// `on` or `off`, also written as a YAML boolean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected 'on' or 'off'")]
pub enum OnOff {
    /// As a boolean.
    Flag(bool),
    /// As a word.
    Word(OnOffWord),
}

/// The words `on` and `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOffWord {
    /// On.
    On,
    /// Off.
    Off,
}

impl OnOff {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        matches!(self, OnOff::Flag(true) | OnOff::Word(OnOffWord::On))
    }
}

/// How one model is served; absent keys keep the node's value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelEntry {
    /// How its requests are put together.
    pub batching: Batching,
    /// Threads of one run.
    pub threads: Option<Threads>,
    /// Hosts per version.
    pub instances: Option<u32>,
    /// The operator's word on the batch axis; absent: probed.
    pub batch_axis: Option<BatchAxis>,
    /// When a run's host is ended.
    pub run_timeout_ms: Option<u64>,
    /// Whether answers are to be provable.
    pub proofs: Option<OnOff>,
}

impl NodeConfig {
    /// Reads the file's text. Errors name the line and column.
    pub fn from_yaml(text: &str) -> Result<NodeConfig> {
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(NodeConfig::default());
        }
        let config: NodeConfig =
            serde_saphyr::from_str(text).map_err(|e| Error::invalid(format!("configuration: {e}")))?;
        config.to_serving()?;
        Ok(config)
    }

    /// What the serving layer needs, checked.
    pub fn to_serving(&self) -> Result<ServingConfig> {
        let mut out = ServingConfig { strict_ready: self.strict_ready, ..ServingConfig::default() };
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "configuration: name has {} bytes, expected 1 to {NAME_BYTES_MAX}",
                self.name.len()
            )));
        }
        out.issuer.clone_from(&self.name);
        within("drain_seconds", self.drain_seconds, 0, SECONDS_MAX)?;
        within("limits.body_bytes_max", self.limits.body_bytes_max, 1, u64::MAX)?;
        within("limits.connections_max", self.limits.connections_max.into(), 1, u32::MAX.into())?;
        if let Some(n) = self.limits.inflight_bytes_max {
            out.inflight_bytes_max = within("limits.inflight_bytes_max", n, 1, u64::MAX)?;
        }
        if let Some(n) = self.limits.host_memory_bytes_max {
            within("limits.host_memory_bytes_max", n, HOST_MEMORY_BYTES_MIN, u64::MAX)?;
        }
        if let Some(n) = self.limits.queue_rows_max {
            within("limits.queue_rows_max", n.into(), 1, u32::MAX.into())?;
            out.queue_rows_max = n;
        }
        out.defaults.batching = self.batching.over("batching", out.defaults.batching)?;
        out.defaults.run_timeout = timeout("run_timeout_ms", self.run_timeout_ms)?;
        out.defaults.proofs = self.proofs.map_or(out.defaults.proofs, OnOff::is_on);
        for (id, entry) in &self.models {
            out.models.insert(id.clone(), entry.over(&format!("models.{id}"), out.defaults)?);
        }
        Ok(out)
    }

    /// Private memory that one engine host may use; `None` if not even the machine's is known.
    pub fn host_memory_bytes(&self) -> Option<u64> {
        self.limits.host_memory_bytes_max.or_else(|| grey_serving::Machine::read().memory_bytes)
    }

    /// How long a shutdown waits for queued work.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

impl Batching {
    fn over(&self, at: &str, base: BatchingConfig) -> Result<BatchingConfig> {
        let mut out = base;
        if let Some(n) = self.max_batch_size {
            within(&format!("{at}.max_batch_size"), n.into(), 1, BATCH_SIZE_MAX.into())?;
            out.max_batch_size = n;
        }
        if let Some(n) = self.pad_to_multiple {
            within(&format!("{at}.pad_to_multiple"), n.into(), 1, BATCH_SIZE_MAX.into())?;
            out.pad_to_multiple = Some(n);
        }
        let wait = match self.max_wait_ms {
            Some(ms) => Some(Duration::from_millis(within(&format!("{at}.max_wait_ms"), ms, 0, SECONDS_MAX * 1000)?)),
            None => None,
        };
        out.hold = match (self.hold, base.hold, wait) {
            (Some(Hold::None), _, _) => HoldPolicy::None,
            (Some(Hold::Fill), HoldPolicy::Fill(d), w) => HoldPolicy::Fill(w.unwrap_or(d)),
            (Some(Hold::Fill), HoldPolicy::None, w) => HoldPolicy::Fill(w.unwrap_or(grey_serving::MAX_WAIT_DEFAULT)),
            (None, HoldPolicy::Fill(_), Some(w)) => HoldPolicy::Fill(w),
            // Without `fill` nothing is held, so the wait has no meaning (and is no mistake either).
            (None, hold, _) => hold,
        };
        Ok(out)
    }
}

impl ModelEntry {
    fn over(&self, at: &str, base: ModelConfig) -> Result<ModelConfig> {
        let mut out = base;
        out.batching = self.batching.over(&format!("{at}.batching"), base.batching)?;
        match self.threads {
            Some(Threads::Count(n)) => {
                within(&format!("{at}.threads"), n.into(), 1, PER_MODEL_MAX.into())?;
                out.threads = Some(n);
            }
            Some(Threads::Auto(Auto::Auto)) => out.threads = None,
            None => {}
        }
        if let Some(n) = self.instances {
            within(&format!("{at}.instances"), n.into(), 1, PER_MODEL_MAX.into())?;
            out.instances = n;
        }
        out.batch_axis = self.batch_axis.or(base.batch_axis);
        if self.run_timeout_ms.is_some() {
            out.run_timeout = timeout(&format!("{at}.run_timeout_ms"), self.run_timeout_ms)?;
        }
        out.proofs = self.proofs.map_or(base.proofs, OnOff::is_on);
        Ok(out)
    }
}

fn timeout(at: &str, ms: Option<u64>) -> Result<Option<Duration>> {
    ms.map(|n| within(at, n, 1, SECONDS_MAX * 1000).map(Duration::from_millis)).transpose()
}

fn within(at: &str, n: u64, least: u64, most: u64) -> Result<u64> {
    if (least..=most).contains(&n) {
        Ok(n)
    } else {
        Err(Error::invalid(format!("configuration: {at} is {n}, expected {least} to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(NodeConfig::from_yaml("# nothing\n\n").unwrap(), NodeConfig::default());
        assert_eq!(NodeConfig::from_yaml("").unwrap(), NodeConfig::default());
    }

    #[test]
    fn values_reach_the_serving_layer() {
        let c = NodeConfig::from_yaml(
            "http: 127.0.0.1:0\ndrain_seconds: 3\nisolation: inline\nlimits:\n  queue_rows_max: 7\n  inflight_bytes_max: 1000\n\
             batching:\n  max_batch_size: 8\n  hold: fill\n  max_wait_ms: 5\nrun_timeout_ms: 1500\n\
             models:\n  digits:\n    threads: 2\n    instances: 3\n    batch_axis: none\n    batching:\n      hold: none\n  \
             other:\n    threads: auto\n",
        )
        .unwrap();
        assert_eq!((c.isolation, c.drain()), (Isolation::Inline, Duration::from_secs(3)));
        let s = c.to_serving().unwrap();
        assert_eq!((s.queue_rows_max, s.inflight_bytes_max), (7, 1000));
        assert_eq!(s.defaults.batching.hold, HoldPolicy::Fill(Duration::from_millis(5)));
        let m = s.model(&ModelId::new("digits").unwrap());
        assert_eq!((m.threads, m.instances, m.batch_axis), (Some(2), 3, Some(BatchAxis::None)));
        assert_eq!((m.batching.hold, m.batching.max_batch_size), (HoldPolicy::None, 8));
        assert_eq!(m.run_timeout, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn proofs_are_on_unless_told() {
        let proofs = |text: &str, model: &str| {
            NodeConfig::from_yaml(text).unwrap().to_serving().unwrap().model(&ModelId::new(model).unwrap()).proofs
        };
        assert!(proofs("", "digits"));
        for off in ["off", "false", "'off'"] {
            assert!(!proofs(&format!("proofs: {off}\n"), "digits"), "{off}");
        }
        let some =
            "proofs: off\nmodels:\n  digits:\n    proofs: on\n  other:\n    instances: 1\n  third: {proofs: true}\n";
        assert!(proofs(some, "digits") && !proofs(some, "other") && proofs(some, "third"));
        let e = NodeConfig::from_yaml("models:\n  digits:\n    proofs: maybe\n").unwrap_err().to_string();
        assert!(e.contains("expected 'on' or 'off'") && e.contains("line 3"), "{e}");
    }

    #[test]
    fn the_console_reads_unless_told() {
        for (text, console) in [
            ("", Console::Read),
            ("console: off\n", Console::Off),
            ("console: read\n", Console::Read),
            ("console: 'write'\n", Console::Write),
        ] {
            assert_eq!(NodeConfig::from_yaml(text).unwrap().console, console, "{text}");
        }
        let e = NodeConfig::from_yaml("console: all\n").unwrap_err().to_string();
        assert!(e.contains("line 1") && e.contains("write"), "{e}");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let e = NodeConfig::from_yaml("http: 127.0.0.1:0\nlimitz:\n  a: 1\n").unwrap_err().to_string();
        assert!(e.contains("limitz") && e.contains("line 2"), "{e}");
        let e = NodeConfig::from_yaml("limits:\n  connections_max: many\n").unwrap_err().to_string();
        assert!(e.contains("line 2"), "{e}");
        let e = NodeConfig::from_yaml("batching:\n  max_batch_size: 0\n").unwrap_err().to_string();
        assert_eq!(e, "configuration: batching.max_batch_size is 0, expected 1 to 65536");
        assert!(NodeConfig::from_yaml("models:\n  ../x: {}\n").unwrap_err().to_string().contains("invalid model name"));
    }
}
