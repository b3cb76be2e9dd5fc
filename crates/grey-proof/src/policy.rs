use serde::de::{Deserialize, Deserializer, Error as _};

use crate::error::shown;
use crate::input::{InputError, Tree, missing, unhex};
use crate::{Class, OutcomeCode, Platform};

/// Largest outcome (claim −70017).
const OUTCOME_MAX: OutcomeCode = 8;

type Result<T> = std::result::Result<T, InputError>;

/// Which times check 6 asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything is valid now.
    #[default]
    Fresh,
    /// Everything was valid when the proof was made.
    Archival,
}

impl Mode {
    const ALL: [Mode; 2] = [Mode::Fresh, Mode::Archival];

    /// The name in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Fresh => "fresh",
            Mode::Archival => "archival",
        }
    }
}

/// A list of what is allowed, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed<T> {
    /// `any`.
    Any,
    /// These and no others; an empty list allows nothing.
    These(Vec<T>),
}

impl<T: PartialEq> Allowed<T> {
    /// Whether `item` is allowed.
    pub fn contains(&self, item: &T) -> bool {
        match self {
            Allowed::Any => true,
            Allowed::These(items) => items.contains(item),
        }
    }
}

/// Node keys whose SOFTWARE evidence is allowed.
pub type SoftwareKeys = Allowed<[u8; 32]>;

/// A measurement of any platform: 32 or 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedMeasurement {
    /// Of SGX or SOFTWARE.
    Of32([u8; 32]),
    /// Of TDX or SEV-SNP.
    Of48([u8; 48]),
}

impl ExpectedMeasurement {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            ExpectedMeasurement::Of32(bytes) => bytes,
            ExpectedMeasurement::Of48(bytes) => bytes,
        }
    }

    fn read(tree: Tree) -> Result<ExpectedMeasurement> {
        let text = tree.text()?;
        let bytes = unhex(&text).unwrap_or_default();
        let of_32 = bytes.as_slice().try_into().map(ExpectedMeasurement::Of32);
        let of_48 = bytes.as_slice().try_into().map(ExpectedMeasurement::Of48);
        of_32.or(of_48).map_err(|_| InputError::new("32 or 48 bytes in hex", shown(&text)))
    }
}

/// An SGX signer, which alone would let in every product and old version that it ever released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedSigner {
    /// `expected_mrsigner`.
    pub mrsigner: [u8; 32],
    /// `expected_product`.
    pub product: u64,
    /// `min_security_version`.
    pub min_security_version: u64,
}

/// `min_tcb`: floors of check 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinTcb {
    /// SEV-SNP.
    pub boot_loader: Option<u64>,
    /// SEV-SNP.
    pub tee: Option<u64>,
    /// SEV-SNP.
    pub snp: Option<u64>,
    /// SEV-SNP.
    pub microcode: Option<u64>,
    /// SEV-SNP, on processors that have one.
    pub fmc: Option<u64>,
    /// SGX and TDX: the evaluation data number.
    pub evaluation: Option<u64>,
}

/// `roots`: certificates in DER, accepted beside the pinned ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// AMD root keys.
    pub amd: Vec<Vec<u8>>,
    /// Intel root certificates.
    pub intel: Vec<Vec<u8>>,
    /// Roots of timestamp authorities; none is pinned.
    pub tsa: Vec<Vec<u8>>,
}

/// What a verifier asks of a proof (§5, policy). All expectations that are given hold together.
///
/// [`Policy::default`] expects nothing and so accepts nothing: check 7 fails, found `nothing
/// expected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Platforms that are allowed; `None` for all that the rest allows.
    pub platforms: Option<Vec<Platform>>,
    /// Measurement, of any platform.
    pub expected_measurement: Option<ExpectedMeasurement>,
    /// MRENCLAVE, of SGX only.
    pub expected_mrenclave: Option<[u8; 32]>,
    /// MRSIGNER, with the two members that make it safe.
    pub expected_mrsigner: Option<ExpectedSigner>,
    /// SGX product id, where no signer is expected.
    pub expected_product: Option<u64>,
    /// Least SGX security version, where no signer is expected.
    pub min_security_version: Option<u64>,
    /// RTMR 0 to 3 of TDX.
    pub expected_rtmrs: Option<[[u8; 48]; 4]>,
    /// HOST_DATA of SEV-SNP.
    pub expected_host_data: Option<[u8; 32]>,
    /// ID_KEY_DIGEST of SEV-SNP.
    pub expected_id_key: Option<[u8; 48]>,
    /// Highest VMPL of SEV-SNP.
    pub max_vmpl: u64,
    /// Least ABI minor version in the policy of an SEV-SNP guest.
    pub min_abi_minor: u64,
    /// Allows SOFTWARE, with these node keys. It says nothing of hardware.
    pub software_keys: Option<SoftwareKeys>,
    /// DCAP statuses that are allowed.
    pub tcb_status: Vec<String>,
    /// Floors of the TCB.
    pub min_tcb: MinTcb,
    /// Takes debug environments.
    pub allow_debug: bool,
    /// Further roots.
    pub roots: Roots,
    /// Which times count.
    pub mode: Mode,
    /// Greatest age of a proof, in seconds (check 17).
    pub max_age: Option<u64>,
    /// Seconds by which the node's clock may be ahead (check 9).
    pub max_skew: u64,
    /// Least determinism class (check 19).
    pub execution: Option<Class>,
    /// Executors that are allowed (check 19); `None` allows none.
    pub executors: Option<Allowed<String>>,
    /// Outcomes that are allowed (check 11).
    pub outcomes: Vec<OutcomeCode>,
    /// Asks for evidence over the executed batch (check 20).
    pub strict: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            platforms: None,
            expected_measurement: None,
            expected_mrenclave: None,
            expected_mrsigner: None,
            expected_product: None,
            min_security_version: None,
            expected_rtmrs: None,
            expected_host_data: None,
            expected_id_key: None,
            max_vmpl: 0,
            min_abi_minor: 0,
            software_keys: None,
            tcb_status: vec!["UpToDate".to_owned()],
            min_tcb: MinTcb::default(),
            allow_debug: false,
            roots: Roots::default(),
            mode: Mode::default(),
            max_age: None,
            max_skew: 60,
            execution: None,
            executors: None,
            outcomes: vec![0],
            strict: false,
        }
    }
}

impl Policy {
    /// Allows SOFTWARE evidence of these node keys, and asks for nothing else.
    pub fn software(keys: SoftwareKeys) -> Policy {
        Policy { software_keys: Some(keys), ..Policy::default() }
    }

    /// Reads a policy in JSON.
    ///
    /// # Errors
    /// Unknown members, other types, bad hex or base64, a member twice or without its companions.
    /// The place is below `policy`.
    pub fn from_json(text: &str) -> Result<Policy> {
        Tree::from_json(text).and_then(Policy::from_tree).map_err(|e| e.within("policy"))
    }

    fn from_tree(tree: Tree) -> Result<Policy> {
        let default = Policy::default();
        tree.object(|m| {
            let platforms = m.optional("platforms", |t| t.list(|t| t.name(&Platform::ALL, Platform::name)))?;
            let expected_measurement = m.optional("expected_measurement", ExpectedMeasurement::read)?;
            let expected_mrenclave = m.optional("expected_mrenclave", Tree::hex)?;
            let mrsigner = m.optional("expected_mrsigner", Tree::hex)?;
            let product = m.optional("expected_product", Tree::uint)?;
            let security_version = m.optional("min_security_version", Tree::uint)?;
            let (expected_mrsigner, expected_product, min_security_version) = match mrsigner {
                None => (None, product, security_version),
                Some(mrsigner) => {
                    let product = product.ok_or_else(|| missing("expected_product"))?;
                    let min_security_version = security_version.ok_or_else(|| missing("min_security_version"))?;
                    (Some(ExpectedSigner { mrsigner, product, min_security_version }), None, None)
                }
            };
            Ok(Policy {
                platforms,
                expected_measurement,
                expected_mrenclave,
                expected_mrsigner,
                expected_product,
                min_security_version,
                expected_rtmrs: m.optional("expected_rtmrs", four_rtmrs)?,
                expected_host_data: m.optional("expected_host_data", Tree::hex)?,
                expected_id_key: m.optional("expected_id_key", Tree::hex)?,
                max_vmpl: m.optional("max_vmpl", Tree::uint)?.unwrap_or(default.max_vmpl),
                min_abi_minor: m.optional("min_abi_minor", Tree::uint)?.unwrap_or(default.min_abi_minor),
                software_keys: m.optional("software_keys", |t| allowed(t, Tree::hex))?,
                tcb_status: m.optional("tcb_status", |t| t.list(Tree::text))?.unwrap_or(default.tcb_status),
                min_tcb: m.optional("min_tcb", MinTcb::read)?.unwrap_or_default(),
                allow_debug: m.optional("allow_debug", Tree::bool)?.unwrap_or(default.allow_debug),
                roots: m.optional("roots", Roots::read)?.unwrap_or_default(),
                mode: m.optional("mode", |t| t.name(&Mode::ALL, Mode::name))?.unwrap_or_default(),
                max_age: m.optional("max_age", Tree::uint)?,
                max_skew: m.optional("max_skew", Tree::uint)?.unwrap_or(default.max_skew),
                execution: m.optional("execution", |t| t.name(&Class::ALL, Class::name))?,
                executors: m.optional("executors", |t| allowed(t, Tree::text))?,
                outcomes: m.optional("outcomes", |t| t.list(outcome))?.unwrap_or(default.outcomes),
                strict: m.optional("strict", Tree::bool)?.unwrap_or(default.strict),
            })
        })
    }
}

/// The same members in any self-describing format, such as YAML.
impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let tree = Tree::deserialize(d)?;
        Policy::from_tree(tree).map_err(|e| D::Error::custom(e.within("policy")))
    }
}

impl MinTcb {
    fn read(tree: Tree) -> Result<MinTcb> {
        tree.object(|m| {
            Ok(MinTcb {
                boot_loader: m.optional("boot_loader", Tree::uint)?,
                tee: m.optional("tee", Tree::uint)?,
                snp: m.optional("snp", Tree::uint)?,
                microcode: m.optional("microcode", Tree::uint)?,
                fmc: m.optional("fmc", Tree::uint)?,
                evaluation: m.optional("evaluation", Tree::uint)?,
            })
        })
    }
}

impl Roots {
    fn read(tree: Tree) -> Result<Roots> {
        let certificates = |t: Tree| t.list(Tree::base64);
        tree.object(|m| {
            Ok(Roots {
                amd: m.optional("amd", certificates)?.unwrap_or_default(),
                intel: m.optional("intel", certificates)?.unwrap_or_default(),
                tsa: m.optional("tsa", certificates)?.unwrap_or_default(),
            })
        })
    }
}

fn allowed<T>(tree: Tree, read: impl FnMut(Tree) -> Result<T>) -> Result<Allowed<T>> {
    match tree {
        Tree::Text(any) if any == "any" => Ok(Allowed::Any),
        list @ Tree::List(_) => list.list(read).map(Allowed::These),
        other => Err(InputError::new("a list, or 'any'", other.describe())),
    }
}

fn four_rtmrs(tree: Tree) -> Result<[[u8; 48]; 4]> {
    let found = tree.describe();
    tree.list(Tree::hex)?.try_into().map_err(|_| InputError::new("a list of 4", found))
}

fn outcome(tree: Tree) -> Result<OutcomeCode> {
    match tree.uint()? {
        code @ 0..=OUTCOME_MAX => Ok(code),
        other => Err(InputError::new(format!("an outcome of 0 to {OUTCOME_MAX}"), format!("{other}"))),
    }
}
