//! What proofs cost by themselves, on one core.

use std::{collections::BTreeMap, io, time::Duration};

use grey_core::{DType, Tensor};
use grey_proof::{
    Bundle, Claims, Class, Exec, Filler, Known, Leaf, Manifest, Measurement, ModelHash, ModelHashScheme, Outcome,
    Platform, Policy, Segment, SessionBundle, SessionEvidence, SignedBatchRoot, SigningKey, SoftwareEvidence,
    SoftwareKeys, TaskId, TensorScheme, Tree, binding, hash_tensors, session_digest, sign_single, verify,
};
use serde_json::{Value, json};

use crate::clock::now;

const NOW: u64 = 1_800_000_000;
/// How long one thing is measured.
const MEASURE: Duration = Duration::from_millis(300);
/// Proofs of one run, up to which both forms are compared.
const TOGETHER: [usize; 7] = [1, 2, 3, 4, 8, 16, 32];

/// Nanoseconds per call: the fastest of several rounds, which is what the code costs undisturbed.
fn nanos<T>(mut work: impl FnMut() -> T) -> f64 {
    let (begin, mut fastest) = (now(), f64::INFINITY);
    while begin.elapsed() < MEASURE {
        let round = now();
        for _ in 0..8 {
            std::hint::black_box(work());
        }
        fastest = fastest.min(round.elapsed().as_nanos() as f64 / 8.0);
    }
    fastest
}

struct Session {
    manifest: Vec<u8>,
    digest: [u8; 32],
    key: SigningKey,
    node_key: SigningKey,
}

fn wrong(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}

fn session() -> io::Result<Session> {
    let (key, node_key) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let manifest = Manifest {
        id: [3; 16],
        signing_key: key.verifying_key().to_bytes(),
        sealing_keys: Vec::new(),
        measurement: Measurement::software([4; 32]),
        not_before: NOW,
        not_after: NOW + 3600,
        code_sha256: [4; 32],
    };
    let manifest = manifest.encode().map_err(wrong)?;
    Ok(Session { digest: session_digest(&manifest), manifest, key, node_key })
}

fn claims(session: &Session, position: u64, input_hash: [u8; 32], output_hash: [u8; 32]) -> io::Result<Claims> {
    let mut task = [5; 16];
    (task[6], task[8]) = (0x70, 0x80);
    Ok(Claims {
        issuer: "grey".into(),
        issued_at: NOW + 1,
        task_id: TaskId::new(task).map_err(wrong)?,
        nonce: None,
        tenant_tag: [6; 16],
        model_id: "digits".into(),
        model_version: "1".into(),
        model_hash: Some(ModelHash { scheme: ModelHashScheme::File, hash: [7; 32] }),
        outcome: Outcome::Ok { input_hash, output_hash, output_names: vec!["probabilities".into()] },
        tensor_scheme: TensorScheme::Plain,
        exec: Some(Exec {
            class: Class::Invariant,
            engine: "onnxruntime".into(),
            engine_version: "1.32.0".into(),
            engine_sha256: [8; 32],
            device: "amd/x86-64-v4+avx512_bf16+avx512_vnni".into(),
            threads: 1,
            segments: vec![Segment { bucket: 32, position, rows: 1 }],
            lengths: Vec::new(),
            precision: "fp32".into(),
            sampling: BTreeMap::new(),
            executor: None,
            filler: Filler::Zero,
            switches: vec!["session.set_denormal_as_zero=0".into(), "use_deterministic_compute=1".into()],
        }),
        measurement: Measurement::software([4; 32]),
        session_digest: session.digest,
        blinding: [9; 16],
        children: Vec::new(),
        sealed: None,
        parameters: BTreeMap::new(),
    })
}

fn together(claims: &[Claims], session: &Session) -> io::Result<Vec<Vec<u8>>> {
    let stated: Vec<Leaf> = claims.iter().map(Claims::leaf).collect::<Result<_, _>>().map_err(wrong)?;
    let mut leaves: Vec<[u8; 32]> = stated.iter().map(|l| *l.hash()).collect();
    leaves.resize(stated.len().next_power_of_two(), [0; 32]);
    let tree = Tree::new(leaves).ok_or_else(|| wrong("no tree"))?;
    let root = SignedBatchRoot::sign(tree, session.digest, &session.key);
    stated.iter().zip(0..).map(|(leaf, at)| root.proof(leaf, at).map_err(wrong)).collect()
}

/// Makes so many proofs, together, so often.
pub(crate) fn make(rounds: u64, together_count: u64) -> io::Result<()> {
    let session = session()?;
    let all = (0..together_count).map(|i| claims(&session, i, [1; 32], [2; 32])).collect::<io::Result<Vec<_>>>()?;
    for _ in 0..rounds {
        std::hint::black_box(together(&all, &session)?);
    }
    Ok(())
}

/// Measures, and reports nanoseconds.
pub(crate) fn run() -> io::Result<Value> {
    let session = session()?;
    let tensor = |bytes: usize| Tensor::new("x", DType::Uint8, vec![bytes as u64], vec![1; bytes]).map_err(wrong);
    let small = hash_tensors(&[tensor(256)?], None).map_err(wrong)?;
    let all = (0..32).map(|i| claims(&session, i, small, small)).collect::<io::Result<Vec<_>>>()?;
    let first = all.first().ok_or_else(|| wrong("no claims"))?;

    let evidence = SoftwareEvidence::sign(binding(&session.digest, &[0; 32]), &session.node_key).encode();
    let evidence = SessionEvidence { platform: Platform::Software, evidence, nonce32: [0; 32] };
    let bundle = |proof: Vec<u8>| {
        let session = SessionBundle::new(session.manifest.clone(), evidence.clone());
        Bundle { proof, session }.encode().map_err(wrong)
    };
    let policy = Policy::software(SoftwareKeys::These(vec![session.node_key.verifying_key().to_bytes()]));
    let single = bundle(sign_single(first, &session.key).map_err(wrong)?)?;
    let batch = bundle(together(&all, &session)?.swap_remove(0))?;
    let known = Known::default();
    for b in [&single, &batch] {
        let verdict = verify(b, &policy, NOW + 2, &known);
        if !verdict.is_valid() {
            return Err(wrong(verdict));
        }
    }

    let mut forms = BTreeMap::new();
    for count in TOGETHER {
        let some = all.get(..count).unwrap_or_default();
        let alone = nanos(|| some.iter().map(|c| sign_single(c, &session.key)).collect::<Vec<_>>());
        let shared = nanos(|| together(some, &session));
        forms.insert(format!("{count:02}"), json!({"single_ns": alone, "batch_ns": shared}));
    }
    let large = [tensor(16 << 20)?];
    let hashed = nanos(|| hash_tensors(&large, None));
    Ok(json!({
        "verify_single_ns": nanos(|| verify(&single, &policy, NOW + 2, &known)),
        "verify_batch_ns": nanos(|| verify(&batch, &policy, NOW + 2, &known)),
        "hash_small_ns": nanos(|| hash_tensors(&[tensor(256).ok()?], None).ok()),
        "hash_bytes_per_second": f64::from(16 << 20) / hashed * 1e9,
        "signing_by_proofs_of_one_run": forms,
        "bundle_bytes": {"single": single.len(), "batch_of_32": batch.len()},
    }))
}
