//! How a node is configured: one YAML file, every key also as a variable and most as a flag. The types
//! here are the one place where keys stand: names, types, ranges, defaults, what they do and whether a
//! running node takes another value. Schema, flags, variables and `docs/configuration.md` follow from them.
//!
//! [`resolve`] puts file, variables and flags together and knows afterwards where each value came from.

mod file;
mod keys;
mod layers;
mod problems;
mod reference;
mod values;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use grey_core::{BatchAxis, Error, ModelId, Result};
use grey_serving::{BatchingConfig, HoldPolicy, Machine, ModelConfig, ServingConfig};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

pub use self::{
    keys::{Key, Keys, Kind, Reload, VARIABLE_PREFIX, keys},
    layers::{Change, File, Layers, Resolved, Setting, quoted, resolve, stray_variables},
    problems::{Problem, Problems, Source},
    reference::{reference, schema},
    values::{Address, LogFilter, NodeName, OnOff, PER_MODEL_MAX, Threads, Whole},
};

/// Largest body of an inference request, unless configured; also after decompression.
pub const BODY_BYTES_MAX_DEFAULT: u64 = 256 << 20;
/// Most open connections, unless configured: well below the usual limit of descriptors of a
/// service manager, which models' hosts and files share.
pub const CONNECTIONS_MAX_DEFAULT: u64 = 4096;
/// How long a shutdown waits for queued work, unless configured: below the 30 s after which
/// container managers kill.
pub const DRAIN_SECONDS_DEFAULT: u64 = 25;
/// Where a node listens, unless configured.
pub const HTTP_DEFAULT: &str = "127.0.0.1:8000";
/// What is logged, unless configured.
pub const LOG_DEFAULT: &str = "info";
/// Longest time that may be configured, a day: sums with the clock stay far from overflow.
const SECONDS_MAX: u64 = 86_400;
/// The same in milliseconds.
const MILLIS_MAX: u64 = SECONDS_MAX * 1000;
/// Least memory of a host that may be configured: with less no runtime starts.
const HOST_MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Most rows of one run that may be configured.
const BATCH_SIZE_MAX: u64 = 65_536;
/// Most of what is counted in 32 bits.
const COUNT_MAX: u64 = u32::MAX as u64;

/// Whether engines run in processes of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Isolation {
    /// In a host process per model: a crash ends only the host.
    #[default]
    Process,
    /// Inside the node: a crash of a model is a crash of the node.
    #[serde(alias = "none")]
    Inline,
}

/// How a node writes its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// What the page at `/` may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Console {
    /// There is no page.
    Off,
    /// It shows the node, and runs inferences, which change nothing.
    #[default]
    Read,
    /// It also loads, unloads and removes models.
    Write,
}

impl<'de> Deserialize<'de> for Console {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected 'off', 'read' or 'write'")]
        enum Written {
            // Also a bare `off`, which is `false` in YAML 1.1.
            Flag(bool),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Off,
            Read,
            Write,
        }
        match Written::deserialize(from)? {
            Written::Flag(false) | Written::Word(Word::Off) => Ok(Console::Off),
            Written::Flag(true) => Err(D::Error::custom("expected 'off', 'read' or 'write'")),
            Written::Word(Word::Read) => Ok(Console::Read),
            Written::Word(Word::Write) => Ok(Console::Write),
        }
    }
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

// The docs of the fields below are what users read, in `grey serve --help`, in editors and in
// docs/configuration.md: a first sentence that stands by itself, no Rust.

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Address to listen on; port 0 takes a free one and prints it.
    #[schemars(extend("x-grey-value" = "HOST:PORT", "x-grey-expected" = "HOST:PORT, such as 127.0.0.1:8000"))]
    pub http: Address,
    /// More names under which browsers and operators reach this node. They count only with `insecure`.
    #[schemars(extend("x-grey-value" = "NAME,…", "x-grey-reload" = "now"))]
    pub http_names: Vec<String>,
    /// Folder of the registry and of what the node measured.
    #[schemars(extend("x-grey-value" = "DIR", "x-grey-default" = "`$XDG_DATA_HOME/grey`, else `~/.local/share/grey`"))]
    pub data: Option<PathBuf>,
    /// Listen on addresses that other machines reach, without authentication.
    pub insecure: bool,
    /// Let the protocol's `load` bring a model's files, which are then registered.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub allow_upload: bool,
    /// Replay proofs for whoever reaches the node, which runs models at their word. Set it to false
    /// behind a proxy on the same machine.
    #[schemars(extend("x-grey-reload" = "now", "x-grey-default" = "true where `http` is a loopback address"))]
    pub allow_replay: Option<bool>,
    /// What the page at `/` may do, see `docs/console.md`.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub console: Console,
    /// The node's name in its proofs.
    #[schemars(extend("x-grey-value" = "NAME", "x-grey-expected" = "a text of 1 to 256 bytes"))]
    pub name: NodeName,
    /// File with the 32 bytes of the key of the tenants' tags in proofs, for nodes that are to give a
    /// tenant the same tag.
    #[schemars(extend("x-grey-value" = "FILE", "x-grey-default" = "a key of the node's own, in its data folder"))]
    pub tenant_tag_key_file: Option<PathBuf>,
    /// Bounds of the node.
    pub limits: Limits,
    /// The runtimes that models run on.
    pub engines: Engines,
    /// Where models run: each in a process of its own, or inside the node.
    #[schemars(extend("x-grey-also" = "none"))]
    pub isolation: Isolation,
    /// How requests are put together into runs.
    pub batching: Batching,
    /// When a run's host is ended, in milliseconds.
    #[schemars(extend("x-grey-reload" = "now", "x-grey-default" = "10 s, or 20 × the slowest measured run if that is more"))]
    pub run_timeout_ms: Option<Whole<1, MILLIS_MAX>>,
    /// Whether answers can be proven. Off loads models without what makes their answers provable.
    #[schemars(extend("x-grey-reload" = "load"))]
    pub proofs: OnOff,
    /// Settings of single models, by name; absent keys keep the node's values.
    #[schemars(with = "BTreeMap<String, ModelEntry>")]
    pub models: BTreeMap<ModelId, ModelEntry>,
    /// How long a shutdown waits for queued work, in seconds.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub drain_seconds: Whole<0, SECONDS_MAX>,
    /// The node is not ready before the models are loaded that were when it ended.
    pub strict_ready: bool,
    /// What to log, as for RUST_LOG: a level, or levels of targets.
    #[schemars(extend(
        "x-grey-value" = "FILTER",
        "x-grey-reload" = "now",
        "x-grey-expected" = "a filter such as info or grey=debug,info",
        "x-grey-variable" = "RUST_LOG"
    ))]
    pub log: LogFilter,
    /// How to write the log, on standard error.
    pub log_format: LogFormat,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            http: Address::known(HTTP_DEFAULT),
            http_names: Vec::new(),
            data: None,
            insecure: false,
            allow_upload: false,
            allow_replay: None,
            console: Console::default(),
            name: NodeName::known(grey_serving::ISSUER_DEFAULT),
            tenant_tag_key_file: None,
            limits: Limits::default(),
            engines: Engines::default(),
            isolation: Isolation::default(),
            batching: Batching {
                max_batch_size: Some(Whole::clamped(grey_serving::MAX_BATCH_SIZE_DEFAULT.into())),
                hold: Some(Hold::None),
                max_wait_ms: Some(Whole::clamped(grey_serving::MAX_WAIT_DEFAULT.as_millis() as u64)),
                pad_to_multiple: None,
            },
            run_timeout_ms: None,
            proofs: OnOff::new(true),
            models: BTreeMap::new(),
            drain_seconds: Whole::clamped(DRAIN_SECONDS_DEFAULT),
            strict_ready: false,
            log: LogFilter::known(LOG_DEFAULT),
            log_format: LogFormat::default(),
        }
    }
}

/// Bounds of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest body of an inference request in bytes, also after decompression.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub body_bytes_max: Whole<1, { u64::MAX }>,
    /// Bytes of bodies, tensors and results in flight; beyond, requests are refused with 503.
    #[schemars(extend("x-grey-default" = "a quarter of the memory"))]
    pub inflight_bytes_max: Option<Whole<1, { u64::MAX }>>,
    /// Most open connections; more wait in the system's queue.
    pub connections_max: Whole<1, COUNT_MAX>,
    /// Rows that may wait per version of a model; beyond, requests are refused with 503.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub queue_rows_max: Whole<1, COUNT_MAX>,
    /// Private memory in bytes that one engine host may use.
    #[schemars(extend("x-grey-default" = "all of the memory"))]
    pub host_memory_bytes_max: Option<Whole<HOST_MEMORY_BYTES_MIN, { u64::MAX }>>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes_max: Whole::clamped(BODY_BYTES_MAX_DEFAULT),
            inflight_bytes_max: None,
            connections_max: Whole::clamped(CONNECTIONS_MAX_DEFAULT),
            queue_rows_max: Whole::clamped(grey_serving::QUEUE_ROWS_MAX_DEFAULT.into()),
            host_memory_bytes_max: None,
        }
    }
}

/// Engines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Engines {
    /// ONNX Runtime.
    pub onnxruntime: OnnxRuntime,
}

/// ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OnnxRuntime {
    /// The ONNX Runtime library to use, a `libonnxruntime.so.*`.
    #[schemars(extend(
        "x-grey-value" = "FILE",
        "x-grey-flag" = "onnxruntime-lib",
        "x-grey-default" = "searched for, see `grey engine list`"
    ))]
    pub library: Option<PathBuf>,
}

/// How requests are put together; absent keys keep the value of the level above.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Batching {
    /// Most rows of one run; 1 turns batching off.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub max_batch_size: Option<Whole<1, BATCH_SIZE_MAX>>,
    /// Whether a batch is held back to fill.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub hold: Option<Hold>,
    /// How long the oldest row may wait with `hold: fill`, in milliseconds.
    #[schemars(extend("x-grey-reload" = "now"))]
    pub max_wait_ms: Option<Whole<0, MILLIS_MAX>>,
    /// Pad runs to multiples of this many rows.
    #[schemars(extend("x-grey-reload" = "now", "x-grey-default" = "powers of two"))]
    pub pad_to_multiple: Option<Whole<1, BATCH_SIZE_MAX>>,
}

/// Whether a batch is held back to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Hold {
    /// An idle model takes what is there at once.
    None,
    /// Until it is full or `max_wait_ms` has passed.
    Fill,
}

/// How one model is served; absent keys keep the node's value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelEntry {
    /// How its requests are put together.
    pub batching: Batching,
    /// Threads of one run.
    #[schemars(extend(
        "x-grey-reload" = "load",
        "x-grey-expected" = "a whole number from 1 to 4096, or auto",
        "x-grey-default" = "`auto`: 1 where a run of one row takes less than a millisecond, else at most 4"
    ))]
    pub threads: Option<Threads>,
    /// Hosts per version, on one queue.
    #[schemars(extend("x-grey-reload" = "load", "x-grey-default" = "1"))]
    pub instances: Option<Whole<1, PER_MODEL_MAX>>,
    /// Whether the first axis counts rows that do not mix: `first` says yes, `none` says no.
    #[schemars(schema_with = "batch_axis", extend("x-grey-reload" = "load", "x-grey-default" = "the node finds out"))]
    pub batch_axis: Option<BatchAxis>,
    /// When a run's host is ended, in milliseconds.
    #[schemars(extend("x-grey-reload" = "now", "x-grey-default" = "`run_timeout_ms` of the node"))]
    pub run_timeout_ms: Option<Whole<1, MILLIS_MAX>>,
    /// Whether answers can be proven.
    #[schemars(extend("x-grey-reload" = "load", "x-grey-default" = "`proofs` of the node"))]
    pub proofs: Option<OnOff>,
}

fn batch_axis(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": ["first", "none"]})
}

impl NodeConfig {
    /// Reads a file's text. The error names the first problem with its line and column.
    pub fn from_yaml(text: &str) -> Result<NodeConfig> {
        let file = File { name: "configuration".into(), text: text.to_owned() };
        let layers = Layers { file: Some(file), ..Layers::default() };
        resolve(&layers).map(|r| r.config).map_err(|problems| Error::invalid(problems.first()))
    }

    /// What the serving layer needs, but for the key of the tenants' tags.
    pub fn to_serving(&self) -> ServingConfig {
        let mut out = ServingConfig {
            strict_ready: self.strict_ready,
            issuer: self.name.as_str().to_owned(),
            queue_rows_max: self.limits.queue_rows_max.get_u32(),
            ..ServingConfig::default()
        };
        if let Some(n) = self.limits.inflight_bytes_max {
            out.inflight_bytes_max = n.get();
        }
        let wait = self.batching.max_wait_ms.map_or(grey_serving::MAX_WAIT_DEFAULT, millis);
        out.defaults.batching = self.batching.over(out.defaults.batching, wait);
        out.defaults.run_timeout = self.run_timeout_ms.map(millis);
        out.defaults.proofs = self.proofs.is_on();
        out.models = self.models.iter().map(|(id, entry)| (id.clone(), entry.over(out.defaults, wait))).collect();
        out
    }

    /// Private memory that one engine host may use; `None` if not even the machine's is known.
    pub fn host_memory_bytes(&self) -> Option<u64> {
        self.limits.host_memory_bytes_max.map(Whole::get).or_else(|| Machine::read().memory_bytes)
    }

    /// How long a shutdown waits for queued work.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.get())
    }
}

impl Batching {
    /// `wait` is the level above's, where this one has none.
    fn over(&self, base: BatchingConfig, wait: Duration) -> BatchingConfig {
        let wait = self.max_wait_ms.map_or(wait, millis);
        BatchingConfig {
            max_batch_size: self.max_batch_size.map_or(base.max_batch_size, Whole::get_u32),
            pad_to_multiple: self.pad_to_multiple.map(Whole::get_u32).or(base.pad_to_multiple),
            hold: match (self.hold, base.hold) {
                (Some(Hold::Fill), _) | (None, HoldPolicy::Fill(_)) => HoldPolicy::Fill(wait),
                // Nothing is held, so the wait has no meaning (and is no mistake either).
                (Some(Hold::None), _) | (None, HoldPolicy::None) => HoldPolicy::None,
            },
        }
    }
}

impl ModelEntry {
    fn over(&self, base: ModelConfig, wait: Duration) -> ModelConfig {
        ModelConfig {
            batching: self.batching.over(base.batching, wait),
            threads: match self.threads {
                Some(Threads::Count(n)) => Some(n.get_u32()),
                Some(Threads::Auto) => None,
                None => base.threads,
            },
            instances: self.instances.map_or(base.instances, Whole::get_u32),
            batch_axis: self.batch_axis.or(base.batch_axis),
            run_timeout: self.run_timeout_ms.map(millis).or(base.run_timeout),
            proofs: self.proofs.map_or(base.proofs, OnOff::is_on),
        }
    }
}

fn millis<const MIN: u64, const MAX: u64>(ms: Whole<MIN, MAX>) -> Duration {
    Duration::from_millis(ms.get())
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
        let s = c.to_serving();
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
            NodeConfig::from_yaml(text).unwrap().to_serving().model(&ModelId::new(model).unwrap()).proofs
        };
        assert!(proofs("", "digits"));
        for off in ["off", "false", "'off'"] {
            assert!(!proofs(&format!("proofs: {off}\n"), "digits"), "{off}");
        }
        let some =
            "proofs: off\nmodels:\n  digits:\n    proofs: on\n  other:\n    instances: 1\n  third: {proofs: true}\n";
        assert!(proofs(some, "digits") && !proofs(some, "other") && proofs(some, "third"));
        let e = NodeConfig::from_yaml("models:\n  digits:\n    proofs: maybe\n").unwrap_err().to_string();
        assert_eq!(e, "configuration:3:13: models.digits.proofs is 'maybe', expected on or off");
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
        let e = NodeConfig::from_yaml("console: on\n").unwrap_err().to_string();
        assert!(e.ends_with("expected off or read or write"), "{e}");
        let e = NodeConfig::from_yaml("console: all\n").unwrap_err().to_string();
        assert_eq!(e, "configuration:1:10: console is 'all', expected off or read or write");
    }
}
