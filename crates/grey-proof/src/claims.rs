use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cbor::{Key, Kind, MapWriter, Reader, Writer, required};
use crate::error::{hex, shown};
use crate::session::{Measurement, Platform, capped};
use crate::{FormatError, TensorScheme, leaf_hash};

/// Longest encoded claims, in bytes (§ Encoding).
pub const CLAIMS_BYTES_MAX: usize = 4 * 1024;
const PROFILE: &str = "urn:uuid:7b0c9e52-3f64-4c1d-9a58-2d6f1e80a4c3";
const UPSTREAM: &str = "upstream";

type Result<T> = std::result::Result<T, FormatError>;

/// Claim −70001: HMAC-SHA-256 of the tenant's name under the node's tag key, first 16 bytes.
pub fn tenant_tag(key: &[u8; 32], tenant: &str) -> [u8; 16] {
    // A key of the block's 64 bytes, zero-padded, is by RFC 2104 §2 the same key.
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(b, k)| *b = *k);
    let mac = Hmac::<Sha256>::new(&block.into()).chain_update(tenant.as_bytes()).finalize().into_bytes();
    let mut tag = [0; 16];
    tag.iter_mut().zip(mac).for_each(|(t, m)| *t = m);
    tag
}

/// Id of a task: a UUIDv7 (RFC 9562 §5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId([u8; 16]);

impl TaskId {
    /// # Errors
    /// Another version or variant of UUID.
    pub fn new(bytes: [u8; 16]) -> Result<TaskId> {
        let [.., version, _, variant, _, _, _, _, _, _, _] = bytes;
        if version >> 4 == 7 && variant >> 6 == 0b10 {
            return Ok(TaskId(bytes));
        }
        Err(FormatError::new("a UUIDv7", hex(&bytes)))
    }

    /// The 16 bytes.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

/// How a model's hash is made (§1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelHashScheme {
    /// `sha256-file`: of the one file.
    File,
    /// `sha256-files`: of the lines that `sha256sum` prints for the files.
    Files,
}

impl ModelHashScheme {
    /// The name in the claims.
    pub const fn name(self) -> &'static str {
        match self {
            ModelHashScheme::File => "sha256-file",
            ModelHashScheme::Files => "sha256-files",
        }
    }
}

/// Claims −70004 and −70005, which stand where −70006 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelHash {
    /// How it was made.
    pub scheme: ModelHashScheme,
    /// SHA-256.
    pub hash: [u8; 32],
}

/// What became of a request (claim −70017), with the claims that stand only then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok {
        /// Hash of the inputs as sent.
        input_hash: [u8; 32],
        /// Hash of the outputs as returned.
        output_hash: [u8; 32],
        /// Names of the outputs, strictly ascending by UTF-8 bytes, at least one.
        output_names: Vec<String>,
    },
    /// The inputs do not fit the model.
    InvalidInput,
    /// The model's runtime reported an error.
    ModelFailed {
        /// Hash of the inputs as sent.
        input_hash: [u8; 32],
    },
    /// The deadline passed.
    Deadline {
        /// Hash of the inputs as sent.
        input_hash: [u8; 32],
    },
    /// The caller went away.
    Cancelled {
        /// Hash of the inputs as sent.
        input_hash: [u8; 32],
    },
    /// The host process died.
    HostDied {
        /// Hash of the inputs as sent.
        input_hash: [u8; 32],
    },
    /// No room in the queue.
    Overloaded,
    /// Not allowed, or nothing to run it on.
    Refused,
    /// A fault of the node.
    Internal,
}

/// Number of an [`Outcome`], as policies list it.
pub type OutcomeCode = u64;

impl Outcome {
    /// The number in claim −70017.
    pub const fn code(&self) -> OutcomeCode {
        match self {
            Outcome::Ok { .. } => 0,
            Outcome::InvalidInput => 1,
            Outcome::ModelFailed { .. } => 2,
            Outcome::Deadline { .. } => 3,
            Outcome::Cancelled { .. } => 4,
            Outcome::HostDied { .. } => 5,
            Outcome::Overloaded => 6,
            Outcome::Refused => 7,
            Outcome::Internal => 8,
        }
    }

    /// Claim −70006, where the outcome has one.
    pub const fn input_hash(&self) -> Option<&[u8; 32]> {
        match self {
            Outcome::Ok { input_hash, .. }
            | Outcome::ModelFailed { input_hash }
            | Outcome::Deadline { input_hash }
            | Outcome::Cancelled { input_hash }
            | Outcome::HostDied { input_hash } => Some(input_hash),
            Outcome::InvalidInput | Outcome::Overloaded | Outcome::Refused | Outcome::Internal => None,
        }
    }
}

/// Determinism class of a run (§6), weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing is said about replay.
    None,
    /// Same build, machine class, threads, bucket and position: same bytes.
    Slot,
    /// The bytes do not depend on bucket or position.
    Invariant,
    /// The same bytes on every machine.
    Portable,
}

impl Class {
    pub(crate) const ALL: [Class; 4] = [Class::None, Class::Slot, Class::Invariant, Class::Portable];

    /// The name in the claims.
    pub const fn name(self) -> &'static str {
        match self {
            Class::None => "none",
            Class::Slot => "slot",
            Class::Invariant => "invariant",
            Class::Portable => "portable",
        }
    }
}

/// Rows of a request in one run: `position + rows ≤ bucket`, `rows ≥ 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the run, padding included.
    pub bucket: u64,
    /// Rows that stood before.
    pub position: u64,
    /// Rows of the request.
    pub rows: u64,
}

/// What a replay fills the other rows with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filler {
    /// Zero rows.
    Zero,
    /// Copies of the request's own first row, for models to which zero rows are invalid.
    OwnFirstRow,
}

/// How the answer was computed (claim −70009).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Determinism class.
    pub class: Class,
    /// Name of the engine.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// SHA-256 of the runtime's main library.
    pub engine_sha256: [u8; 32],
    /// ISA class, GPU, or `upstream`.
    pub device: String,
    /// Threads of the run.
    pub threads: u64,
    /// The runs that answered, in the request's row order; at least one.
    pub segments: Vec<Segment>,
    /// Padded lengths of the text inputs, in order of their names; empty if there are none.
    pub lengths: Vec<u64>,
    /// E.g. `fp32`.
    pub precision: String,
    /// Seed and sampling; empty if there is none.
    pub sampling: BTreeMap<u64, u64>,
    /// Name and version of the executor, where not local. Such an exec has the form of an upstream's
    /// run and no other.
    pub executor: Option<(String, String)>,
    /// Filler for the replay.
    pub filler: Filler,
    /// Determinism switches that were set, strictly ascending; empty if none.
    pub switches: Vec<String>,
}

/// Value of a request parameter (claim −70019).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterValue {
    /// Text, or a number that is no integer in RFC 8785 form.
    Text(String),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

/// Claim −70016: which sealed request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRequest {
    /// SHA-256(enc ‖ SHA-256(AAD) ‖ SHA-256(ciphertext)).
    pub hash: [u8; 32],
    /// The sealing key's number in the manifest.
    pub kid: u64,
}

/// What a node states about one inference (§3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The node's configured name.
    pub issuer: String,
    /// When the outputs were complete, Unix seconds of the node's clock.
    pub issued_at: u64,
    /// Id of the task.
    pub task_id: TaskId,
    /// The client's nonce, 8 to 64 bytes.
    pub nonce: Option<Vec<u8>>,
    /// See [`tenant_tag`].
    pub tenant_tag: [u8; 16],
    /// Model asked for.
    pub model_id: String,
    /// Its version.
    pub model_version: String,
    /// Hash of the model's files; there with the outcomes that have an input hash.
    pub model_hash: Option<ModelHash>,
    /// What became of the request.
    pub outcome: Outcome,
    /// How input and output hashes are made.
    pub tensor_scheme: TensorScheme,
    /// Absent for outcomes 1, 6 and 7; present for 0 unless there are children.
    pub exec: Option<Exec>,
    /// Restated from the manifest.
    pub measurement: Measurement,
    /// Names the session.
    pub session_digest: [u8; 32],
    /// Random.
    pub blinding: [u8; 16],
    /// SHA-256 of child proofs; empty if there are none.
    pub children: Vec<[u8; 32]>,
    /// The sealed request.
    pub sealed: Option<SealedRequest>,
    /// Parameters that change outputs; empty if there are none.
    pub parameters: BTreeMap<String, ParameterValue>,
}

/// Encoded claims that were found well formed, with their leaf hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    claims: Vec<u8>,
    hash: [u8; 32],
}

impl Leaf {
    /// The encoded claims.
    pub fn claims(&self) -> &[u8] {
        &self.claims
    }

    /// See [`leaf_hash`].
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

/// Nothing but strictly ascending by UTF-8 bytes.
fn ascending(items: &[String]) -> Result<()> {
    match items.iter().zip(items.iter().skip(1)).find(|(a, b)| a >= b) {
        None => Ok(()),
        Some((a, b)) => Err(FormatError::new("strictly ascending texts", format!("{} before {}", shown(a), shown(b)))),
    }
}

fn texts(r: &mut Reader<'_>) -> Result<Vec<String>> {
    let items = r.list(1, CLAIMS_BYTES_MAX, |r| Ok(r.text()?.to_owned()))?;
    ascending(&items)?;
    Ok(items)
}

fn choice<T: Copy>(r: &mut Reader<'_>, choices: &[T], name: impl Fn(T) -> &'static str) -> Result<T> {
    let found = r.text()?;
    choices.iter().copied().find(|c| name(*c) == found).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|c| name(*c)).collect();
        FormatError::new(format!("one of {}", names.join(", ")), shown(found))
    })
}

impl Claims {
    /// Reads encoded claims.
    ///
    /// # Errors
    /// Anything but the one encoding of claims that keep all rules; the place is below `claims`.
    pub fn parse(bytes: &[u8]) -> Result<Claims> {
        capped("claims", bytes, CLAIMS_BYTES_MAX)?;
        Reader::all(bytes, Self::read).map_err(|e| e.within("claims"))
    }

    fn read(r: &mut Reader<'_>) -> Result<Claims> {
        let (mut iss, mut iat, mut cti, mut nonce, mut profile) = (None, None, None, None, None);
        let (mut tag, mut model, mut version, mut hash, mut scheme) = (None, None, None, None, None);
        let (mut input, mut output, mut tensor_scheme, mut exec, mut platform) = (None, None, None, None, None);
        let (mut measurement, mut session, mut blinding, mut children, mut sealed) = (None, None, None, None, None);
        let (mut code, mut names, mut parameters) = (None, None, None);
        r.map(|key, r| {
            match key {
                Key::Int(1) => iss = Some(r.text()?.to_owned()),
                Key::Int(6) => iat = Some(r.uint()?),
                Key::Int(7) => cti = Some(TaskId::new(r.bytes_of()?)?),
                Key::Int(10) => {
                    let bytes = r.bytes()?;
                    if !(8..=64).contains(&bytes.len()) {
                        return Err(FormatError::new("8 to 64 bytes", format!("{} bytes", bytes.len())));
                    }
                    nonce = Some(bytes.to_vec());
                }
                Key::Int(265) => profile = Some(r.word(PROFILE)?),
                Key::Int(-70001) => tag = Some(r.bytes_of()?),
                Key::Int(-70002) => model = Some(r.text()?.to_owned()),
                Key::Int(-70003) => version = Some(r.text()?.to_owned()),
                Key::Int(-70004) => hash = Some(r.bytes_of()?),
                Key::Int(-70005) => {
                    scheme = Some(choice(r, &[ModelHashScheme::File, ModelHashScheme::Files], ModelHashScheme::name)?);
                }
                Key::Int(-70006) => input = Some(r.bytes_of()?),
                Key::Int(-70007) => output = Some(r.bytes_of()?),
                Key::Int(-70008) => {
                    tensor_scheme = Some(choice(r, &[TensorScheme::Plain, TensorScheme::Salted], TensorScheme::name)?);
                }
                Key::Int(-70009) => exec = Some(Exec::read(r)?),
                Key::Int(-70010) => platform = Some(Platform::read(r)?),
                Key::Int(-70011) => measurement = Some(r.bytes()?),
                Key::Int(-70012) => session = Some(r.bytes_of()?),
                Key::Int(-70014) => blinding = Some(r.bytes_of()?),
                Key::Int(-70015) => children = Some(r.list(1, CLAIMS_BYTES_MAX, |r| r.bytes_of())?),
                Key::Int(-70016) => {
                    sealed = Some(r.array(2, |r| Ok(SealedRequest { hash: r.bytes_of()?, kid: r.uint()? }))?);
                }
                Key::Int(-70017) => code = Some(r.uint()?),
                Key::Int(-70018) => names = Some(texts(r)?),
                Key::Int(-70019) => parameters = Some(read_parameters(r)?),
                other => return other.unknown(),
            }
            Ok(())
        })?;
        required(profile, 265)?;
        let outcome = outcome(required(code, -70017)?, input, output, names)?;
        let model_hash = if outcome.input_hash().is_some() {
            Some(ModelHash { hash: required(hash, -70004)?, scheme: required(scheme, -70005)? })
        } else {
            absent(&outcome, -70004, hash.is_some())?;
            absent(&outcome, -70005, scheme.is_some())?;
            None
        };
        let children: Vec<[u8; 32]> = children.unwrap_or_default();
        match (&outcome, &exec) {
            (Outcome::InvalidInput | Outcome::Overloaded | Outcome::Refused, Some(_)) => {
                return Err(FormatError::new("no exec with outcomes 1, 6 and 7", "one").within(-70009));
            }
            (Outcome::Ok { .. }, None) if children.is_empty() => {
                return Err(FormatError::new("an exec with outcome 0 and no children", "none").within(-70009));
            }
            _ => {}
        }
        let measurement = Measurement::new(required(platform, -70010)?, required(measurement, -70011)?)
            .map_err(|e| e.within(-70011))?;
        Ok(Claims {
            issuer: required(iss, 1)?,
            issued_at: required(iat, 6)?,
            task_id: required(cti, 7)?,
            nonce,
            tenant_tag: required(tag, -70001)?,
            model_id: required(model, -70002)?,
            model_version: required(version, -70003)?,
            model_hash,
            outcome,
            tensor_scheme: required(tensor_scheme, -70008)?,
            exec,
            measurement,
            session_digest: required(session, -70012)?,
            blinding: required(blinding, -70014)?,
            children,
            sealed,
            parameters: parameters.unwrap_or_default(),
        })
    }

    /// The one encoding.
    ///
    /// # Errors
    /// Whatever [`Claims::parse`] would refuse, so that nothing is signed that no verifier takes:
    /// more than 4 KiB, a nonce of a wrong length, an exec where none may stand.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = Writer::encode(|w| w.map(|m| self.write(m)));
        Claims::parse(&bytes)?;
        Ok(bytes)
    }

    /// The one encoding, as a leaf of a batch's tree.
    ///
    /// # Errors
    /// As [`Claims::encode`].
    pub fn leaf(&self) -> Result<Leaf> {
        let claims = self.encode()?;
        Ok(Leaf { hash: leaf_hash(&claims), claims })
    }

    fn write(&self, m: &mut MapWriter) {
        m.int(1, |w| w.text(&self.issuer));
        m.int(6, |w| w.uint(self.issued_at));
        m.int(7, |w| w.bytes(&self.task_id.0));
        if let Some(nonce) = &self.nonce {
            m.int(10, |w| w.bytes(nonce));
        }
        m.int(265, |w| w.text(PROFILE));
        m.int(-70001, |w| w.bytes(&self.tenant_tag));
        m.int(-70002, |w| w.text(&self.model_id));
        m.int(-70003, |w| w.text(&self.model_version));
        if let Some(ModelHash { scheme, hash }) = &self.model_hash {
            m.int(-70004, |w| w.bytes(hash));
            m.int(-70005, |w| w.text(scheme.name()));
        }
        if let Some(hash) = self.outcome.input_hash() {
            m.int(-70006, |w| w.bytes(hash));
        }
        if let Outcome::Ok { output_hash, .. } = &self.outcome {
            m.int(-70007, |w| w.bytes(output_hash));
        }
        m.int(-70008, |w| w.text(self.tensor_scheme.name()));
        if let Some(exec) = &self.exec {
            m.int(-70009, |w| w.map(|m| exec.write(m)));
        }
        m.int(-70010, |w| w.text(self.measurement.platform().name()));
        m.int(-70011, |w| w.bytes(self.measurement.bytes()));
        m.int(-70012, |w| w.bytes(&self.session_digest));
        m.int(-70014, |w| w.bytes(&self.blinding));
        if !self.children.is_empty() {
            m.int(-70015, |w| w.list(self.children.iter(), |w, c| w.bytes(c)));
        }
        if let Some(sealed) = &self.sealed {
            m.int(-70016, |w| {
                w.array(2);
                w.bytes(&sealed.hash);
                w.uint(sealed.kid);
            });
        }
        m.int(-70017, |w| w.uint(self.outcome.code()));
        if let Outcome::Ok { output_names, .. } = &self.outcome {
            m.int(-70018, |w| w.list(output_names.iter(), |w, n| w.text(n)));
        }
        if !self.parameters.is_empty() {
            m.int(-70019, |w| {
                w.map(|m| {
                    for (name, value) in &self.parameters {
                        m.text(name, |w| match value {
                            ParameterValue::Text(t) => w.text(t),
                            ParameterValue::Int(i) => w.int(*i),
                            ParameterValue::Bool(b) => w.bool(*b),
                        });
                    }
                });
            });
        }
    }
}

fn read_parameters(r: &mut Reader<'_>) -> Result<BTreeMap<String, ParameterValue>> {
    let mut parameters = BTreeMap::new();
    r.map(|key, r| {
        let Key::Text(name) = key else { return Err(FormatError::new("text as key", "an integer")) };
        let value = match r.peek()? {
            Kind::Int => ParameterValue::Int(r.int()?),
            Kind::Bool => ParameterValue::Bool(r.bool()?),
            _ => ParameterValue::Text(r.text()?.to_owned()),
        };
        parameters.insert(name.to_owned(), value);
        Ok(())
    })?;
    non_empty(parameters.is_empty())?;
    Ok(parameters)
}

fn non_empty(empty: bool) -> Result<()> {
    if empty { Err(FormatError::new("at least one entry, or no member", "an empty map")) } else { Ok(()) }
}

/// A claim that may not stand with this outcome.
fn absent(outcome: &Outcome, key: i64, present: bool) -> Result<()> {
    if !present {
        return Ok(());
    }
    Err(FormatError::new(format!("no such claim with outcome {}", outcome.code()), "one").within(key))
}

/// The "iff" rules of −70006, −70007 and −70018.
fn outcome(
    code: u64,
    input: Option<[u8; 32]>,
    output: Option<[u8; 32]>,
    names: Option<Vec<String>>,
) -> Result<Outcome> {
    let with_input = || required(input, -70006);
    let outcome = match code {
        0 => {
            return Ok(Outcome::Ok {
                input_hash: with_input()?,
                output_hash: required(output, -70007)?,
                output_names: required(names, -70018)?,
            });
        }
        1 => Outcome::InvalidInput,
        2 => Outcome::ModelFailed { input_hash: with_input()? },
        3 => Outcome::Deadline { input_hash: with_input()? },
        4 => Outcome::Cancelled { input_hash: with_input()? },
        5 => Outcome::HostDied { input_hash: with_input()? },
        6 => Outcome::Overloaded,
        7 => Outcome::Refused,
        8 => Outcome::Internal,
        _ => return Err(FormatError::new("an outcome of 0 to 8", format!("{code}")).within(-70017)),
    };
    absent(&outcome, -70007, output.is_some())?;
    absent(&outcome, -70018, names.is_some())?;
    absent(&outcome, -70006, outcome.input_hash().is_none() && input.is_some())?;
    Ok(outcome)
}

impl Exec {
    fn read(r: &mut Reader<'_>) -> Result<Exec> {
        let (mut class, mut engine, mut device, mut threads, mut segments) = (None, None, None, None, None);
        let (mut lengths, mut precision, mut sampling, mut executor) = (None, None, None, None);
        let (mut filler, mut switches) = (Filler::Zero, None);
        r.map(|key, r| {
            match key {
                Key::Int(1) => class = Some(choice(r, &Class::ALL, Class::name)?),
                Key::Int(2) => {
                    engine = Some(r.array(3, |r| Ok((r.text()?.to_owned(), r.text()?.to_owned(), r.bytes_of()?)))?);
                }
                Key::Int(3) => device = Some(r.text()?.to_owned()),
                Key::Int(4) => threads = Some(r.uint()?),
                Key::Int(5) => segments = Some(r.list(1, CLAIMS_BYTES_MAX, read_segment)?),
                Key::Int(6) => lengths = Some(r.list(1, CLAIMS_BYTES_MAX, |r| r.uint())?),
                Key::Int(7) => precision = Some(r.text()?.to_owned()),
                Key::Int(8) => {
                    let mut map = BTreeMap::new();
                    r.map(|key, r| {
                        let key = match key {
                            Key::Int(i) => u64::try_from(i).ok(),
                            Key::Text(_) => None,
                        };
                        map.insert(key.ok_or_else(|| FormatError::new("a key of at least 0", "another"))?, r.uint()?);
                        Ok(())
                    })?;
                    non_empty(map.is_empty())?;
                    sampling = Some(map);
                }
                Key::Int(9) => executor = Some(r.array(2, |r| Ok((r.text()?.to_owned(), r.text()?.to_owned())))?),
                Key::Int(10) => {
                    r.word("self")?;
                    filler = Filler::OwnFirstRow;
                }
                Key::Int(11) => switches = Some(texts(r)?),
                other => return other.unknown(),
            }
            Ok(())
        })?;
        let (engine, engine_version, engine_sha256) = required(engine, 2)?;
        let exec = Exec {
            class: required(class, 1)?,
            engine,
            engine_version,
            engine_sha256,
            device: required(device, 3)?,
            threads: required(threads, 4)?,
            segments: required(segments, 5)?,
            lengths: lengths.unwrap_or_default(),
            precision: required(precision, 7)?,
            sampling: sampling.unwrap_or_default(),
            executor,
            filler,
            switches: switches.unwrap_or_default(),
        };
        if exec.executor.is_some() && !exec.has_upstream_form() {
            return Err(FormatError::new("the form of an upstream's run", "another").within(9));
        }
        Ok(exec)
    }

    fn has_upstream_form(&self) -> bool {
        self.class == Class::None
            && self.engine_sha256 == [0; 32]
            && self.device == UPSTREAM
            && self.threads == 0
            && matches!(self.segments.as_slice(), [Segment { bucket, position: 0, rows }] if bucket == rows)
            && self.precision == "unknown"
            && self.lengths.is_empty()
            && self.sampling.is_empty()
            && self.filler == Filler::Zero
            && self.switches.is_empty()
    }

    fn write(&self, m: &mut MapWriter) {
        m.int(1, |w| w.text(self.class.name()));
        m.int(2, |w| {
            w.array(3);
            w.text(&self.engine);
            w.text(&self.engine_version);
            w.bytes(&self.engine_sha256);
        });
        m.int(3, |w| w.text(&self.device));
        m.int(4, |w| w.uint(self.threads));
        m.int(5, |w| {
            w.list(self.segments.iter(), |w, s| {
                w.list([s.bucket, s.position, s.rows].into_iter(), |w, n| w.uint(n));
            });
        });
        if !self.lengths.is_empty() {
            m.int(6, |w| w.list(self.lengths.iter(), |w, n| w.uint(*n)));
        }
        m.int(7, |w| w.text(&self.precision));
        if !self.sampling.is_empty() {
            m.int(8, |w| {
                w.map(|m| {
                    for (key, value) in &self.sampling {
                        // A key above 2^63−1 wraps to a negative one, which the reading that
                        // follows every writing refuses.
                        m.int(key.cast_signed(), |w| w.uint(*value));
                    }
                });
            });
        }
        if let Some((name, version)) = &self.executor {
            m.int(9, |w| {
                w.array(2);
                w.text(name);
                w.text(version);
            });
        }
        if self.filler == Filler::OwnFirstRow {
            m.int(10, |w| w.text("self"));
        }
        if !self.switches.is_empty() {
            m.int(11, |w| w.list(self.switches.iter(), |w, s| w.text(s)));
        }
    }
}

fn read_segment(r: &mut Reader<'_>) -> Result<Segment> {
    let s = r.array(3, |r| Ok(Segment { bucket: r.uint()?, position: r.uint()?, rows: r.uint()? }))?;
    if s.rows == 0 || s.position.checked_add(s.rows).is_none_or(|end| end > s.bucket) {
        let found = format!("bucket {}, position {}, rows {}", s.bucket, s.position, s.rows);
        return Err(FormatError::new("rows of at least 1 within the bucket", found));
    }
    Ok(s)
}
