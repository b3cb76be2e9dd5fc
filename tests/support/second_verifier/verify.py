"""The 21 checks, in order, and the verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import ed25519, merkle, view
from . import structures as s
from .inputs import ANY, Known, Policy, parse_known, parse_policy
from .rules import Malformed
from .tensors import ImpossibleTensors, Tensor, check_salt, check_tensors, tensor_hash

PASS, FAIL, SKIPPED, NOT_APPLICABLE = "pass", "fail", "skipped", "not applicable"
VALID, CLAIMED_TIME, NOT_VALID = "valid", "valid at claimed time", "not valid"
HARDWARE = "this verifier knows SOFTWARE only"
MAX_SESSION_S = 86_400
SOFTWARE_FRESH_S = 2_592_000

# Members that only evidence of a hardware platform can satisfy.
HARDWARE_EXPECTATIONS = (
    "expected_mrenclave",
    "expected_mrsigner",
    "expected_product",
    "min_security_version",
    "expected_rtmrs",
    "expected_host_data",
    "expected_id_key",
)
CHECKS = (
    "well-formed",
    "evidence-signature",
    "certificate-matches-report",
    "attributes",
    "tcb",
    "evidence-time",
    "measurement",
    "key-binding",
    "session",
    "signature",
    "outcome",
    "model-hash",
    "input-hash",
    "output-hash",
    "request",
    "nonce",
    "freshness",
    "replay",
    "execution",
    "batch-report",
    "view",
)
SESSION_CHECKS = CHECKS[:9]
ALWAYS_REQUIRED = 11  # checks 1 to 11


@dataclass(frozen=True)
class Outcome:
    """What one check says."""

    result: str
    expected: str = ""
    found: str = ""


@dataclass(frozen=True)
class Context:
    """What the checks of a session look at."""

    session: s.Session
    policy: Policy
    now: int
    known: Known

    @property
    def digest(self) -> bytes:
        """The session's name."""
        return hashlib.sha256(self.session.manifest_bytes).digest()


@dataclass(frozen=True)
class ProofContext(Context):
    """What the checks of a proof look at besides."""

    bundle: s.Bundle

    @property
    def claims(self) -> dict[int, Any]:
        """The claims."""
        return self.bundle.proof.claims


def show(value: Any) -> str:
    """A value as text in a verdict."""
    return value.hex() if isinstance(value, bytes) else str(value)


def judge(problems: list[str], expected: str) -> Outcome:
    """A pass where nothing is wrong."""
    return Outcome(FAIL if problems else PASS, expected, "; ".join(problems) or expected)


def equal(expected: Any, found: Any) -> Outcome:
    """A pass where the two are the same; None is what is absent."""
    result = PASS if found is not None and expected == found else FAIL
    return Outcome(result, show(expected), "absent" if found is None else show(found))


def not_asked(claim: Any) -> Outcome:
    """The result where no value was given for a claim."""
    return Outcome(NOT_APPLICABLE if claim is None else SKIPPED, "not asked")


# Checks 2 to 9, of a session.


def hardware_only(c: Context) -> Outcome:
    """Checks 2, 4, 5 and 6: they ask nothing of SOFTWARE."""
    if c.session.platform == "SOFTWARE":
        return Outcome(NOT_APPLICABLE, found="SOFTWARE")
    return Outcome(FAIL, "verified evidence", HARDWARE)


def certificate_matches_report(c: Context) -> Outcome:
    """Check 3: SEV-SNP alone."""
    if c.session.platform != "SEV-SNP":
        return Outcome(NOT_APPLICABLE, found=c.session.platform)
    return Outcome(FAIL, "verified evidence", HARDWARE)


def key_allowed(policy: Policy, node_key: bytes) -> bool:
    """Whether the policy names this node key."""
    keys = policy.software_keys
    return keys is not None and (keys == ANY or node_key in keys)


def measurement(c: Context) -> Outcome:
    """Check 7."""
    expected = "what the policy expects"
    software = c.session.software
    if software is None:
        return Outcome(FAIL, expected, HARDWARE)
    p = c.policy
    foreign = [name for name in HARDWARE_EXPECTATIONS if getattr(p, name) is not None]
    if p.software_keys is None and p.expected_measurement is None and not foreign:
        return Outcome(FAIL, expected, "nothing expected")
    problems = [f"{name} is not for SOFTWARE" for name in foreign]
    if p.platforms is not None and "SOFTWARE" not in p.platforms:
        problems.append("platform SOFTWARE")
    if p.software_keys is None:
        problems.append("SOFTWARE without software_keys")
    elif not key_allowed(p, software.node_key):
        problems.append(f"node key {software.node_key.hex()}")
    if p.expected_measurement not in (None, c.session.manifest[9]):
        problems.append(f"measurement {c.session.manifest[9].hex()}")
    return judge(problems, expected)


def signed_by_node(evidence: s.SoftwareEvidence) -> bool:
    """Whether the signature of software evidence verifies."""
    return ed25519.verify(evidence.node_key, b"grey.software.v1\0" + evidence.binding, evidence.signature)


def key_binding(c: Context) -> Outcome:
    """Check 8."""
    expected = "evidence over this session"
    software, nonce32 = c.session.software, c.session.nonce32
    if software is None:
        return Outcome(FAIL, expected, HARDWARE)
    problems = []
    if software.binding != hashlib.sha512(b"grey.binding.v1\0" + c.digest + nonce32).digest():
        problems.append("another binding")
    if c.known.session_nonce is not None and nonce32 != hashlib.sha256(c.known.session_nonce).digest():
        problems.append("another nonce")
    if not signed_by_node(software):
        problems.append("the node's signature does not verify")
    return judge(problems, expected)


def session_problems(c: Context) -> list[str]:
    """What of check 9 needs no claims."""
    m = c.session.manifest
    problems = []
    if not m[7] <= m[8] <= m[7] + MAX_SESSION_S:
        problems.append(f"session from {m[7]} to {m[8]}")
    if m[5] != c.session.platform:
        problems.append("another platform in manifest and evidence")
    if c.session.software is None:
        problems.append(f"measurement of the evidence unknown: {HARDWARE}")
    elif m[6] != m[9]:
        problems.append("the manifest's measurement is not its member 9")
    return problems


def session(c: ProofContext) -> Outcome:
    """Check 9 with a proof."""
    m, claims, proof = c.session.manifest, c.claims, c.bundle.proof
    iat = claims[s.IAT]
    problems = session_problems(c)
    if not m[7] <= iat <= m[8]:
        problems.append(f"iat {iat} outside {m[7]} to {m[8]}")
    if iat > c.now + c.policy.max_skew:
        problems.append(f"iat {iat} after now")
    fresh_software = c.session.platform == "SOFTWARE" and c.policy.mode == "fresh"
    if fresh_software and c.now > m[8] + SOFTWARE_FRESH_S:
        problems.append(f"session ended at {m[8]}")
    if claims[s.SESSION_DIGEST] != c.digest:
        problems.append("another session digest in the claims")
    if proof.signed.kid != c.digest[:8]:
        problems.append("another kid")
    if proof.batch is not None and proof.batch.root[4] != c.digest:
        problems.append("another session digest in the root")
    if claims[s.PLATFORM] != m[5] or claims[s.PLATFORM] != c.session.platform:
        problems.append("another platform in the claims")
    if claims[s.MEASUREMENT] != m[6]:
        problems.append("another measurement in the claims")
    return judge(problems, "one session, in its time")


def session_alone(c: Context) -> Outcome:
    """Check 9 without a proof."""
    m = c.session.manifest
    problems = session_problems(c)
    if not m[7] <= c.now <= m[8]:
        problems.append(f"now {c.now} outside {m[7]} to {m[8]}")
    return judge(problems, "a session, in its time")


# Checks 10 to 21, of a proof.


def signature(c: ProofContext) -> Outcome:
    """Check 10."""
    proof = c.bundle.proof
    external = b"grey.inference.v1" if proof.batch is None else b"grey.batch.v1"
    problems = []
    if not ed25519.verify(c.session.manifest[3][-2], proof.signed.message(external), proof.signed.signature):
        problems.append("the signature does not verify")
    if proof.batch is not None:
        root = proof.batch.root
        leaf = merkle.leaf_hash(proof.claims_bytes)
        if not merkle.included(leaf, proof.batch.leaf_index, root[3], proof.batch.path, root[2]):
            problems.append("the leaf is not included")
    return judge(problems, "signed by the session's key")


def outcome(c: ProofContext) -> Outcome:
    """Check 11."""
    found = c.claims[s.OUTCOME]
    allowed = list(c.policy.outcomes)
    return Outcome(PASS if found in allowed else FAIL, f"among {allowed}", str(found))


def model_hash(c: ProofContext) -> Outcome:
    """Check 12."""
    found, scheme = c.claims.get(s.MODEL_HASH), c.claims.get(s.MODEL_HASH_SCHEME)
    if c.known.model_hash is None:
        return not_asked(found)
    if c.known.model_hash_scheme not in (None, scheme):
        return equal(c.known.model_hash_scheme, scheme)
    return equal(c.known.model_hash, found)


def recomputed(c: ProofContext, tensors: list[Tensor], claim: int, problems: list[str]) -> Outcome:
    """Compare a tensor hash; every reason to fail that shows without the salt goes first."""
    found, salt = c.claims.get(claim), c.known.salt
    salted = c.claims[s.TENSOR_SCHEME] == "grey-tensor-v1+salt"
    problems = list(problems)
    if found is None:
        problems.append("absent")
    try:
        check_salt(salt)
        check_tensors(tensors)
    except ImpossibleTensors as e:
        problems.append(str(e))
    if salt is not None and not salted:
        problems.append("a salt for an unsalted proof")
    if problems:
        return judge(problems, "the hash of these tensors")
    if salted and salt is None:
        return Outcome(SKIPPED, "the hash of these tensors", "salted, and no salt given")
    return equal(tensor_hash(tensors, salt), found)


def input_hash(c: ProofContext) -> Outcome:
    """Check 13."""
    if c.known.inputs is None:
        return not_asked(c.claims.get(s.INPUT_HASH))
    return recomputed(c, c.known.inputs, s.INPUT_HASH, [])


def output_hash(c: ProofContext) -> Outcome:
    """Check 14."""
    outputs = c.known.outputs
    if outputs is None:
        return not_asked(c.claims.get(s.OUTPUT_HASH))
    problems = []
    if c.claims[s.OUTCOME] != 0:
        problems.append(f"outcome {c.claims[s.OUTCOME]}")
    if sorted(t.name for t in outputs) != c.claims.get(s.OUTPUT_NAMES):
        problems.append("other names")
    return recomputed(c, outputs, s.OUTPUT_HASH, problems)


def request(c: ProofContext) -> Outcome:
    """Check 15."""
    given = c.known.request
    if given is None:
        return Outcome(SKIPPED, "not asked")
    claims = c.claims
    stated = {
        "model_id": claims[s.MODEL_ID],
        "model_version": claims[s.MODEL_VERSION],
        "parameters": claims.get(s.PARAMETERS, {}),
        "task_id": claims[s.CTI],
        "tenant_tag": claims[s.TENANT_TAG],
    }
    return judge([f"another {name}" for name in given if not view.same(given[name], stated[name])], "this request")


def nonce(c: ProofContext) -> Outcome:
    """Check 16."""
    found = c.claims.get(s.NONCE)
    return not_asked(found) if c.known.nonce is None else equal(c.known.nonce, found)


def freshness(c: ProofContext) -> Outcome:
    """Check 17."""
    if c.policy.max_age is None:
        return Outcome(SKIPPED, "not asked")
    age = c.now - c.claims[s.IAT]
    return Outcome(PASS if age <= c.policy.max_age else FAIL, f"at most {c.policy.max_age} s", f"{age} s")


def replay(c: ProofContext) -> Outcome:
    """Check 18."""
    if c.known.seen is None:
        return Outcome(SKIPPED, "not asked")
    task = c.claims[s.CTI]
    return Outcome(FAIL if task in c.known.seen else PASS, "a task id not seen", task.hex())


def execution(c: ProofContext) -> Outcome:
    """Check 19."""
    least, executors, run = c.policy.execution, c.policy.executors, c.claims.get(s.EXEC)
    asked = least is not None or executors is not None
    executor = run[9][0] if run is not None and 9 in run else None
    if not asked and executor is None:
        return not_asked(run)
    problems = []
    if least is not None and run is None:
        problems.append("no exec")
    elif least is not None and run is not None and s.CLASSES.index(run[1]) < s.CLASSES.index(least):
        problems.append(f"class {run[1]}")
    if executor is not None and executors != ANY and executor not in (executors or []):
        problems.append(f"executor {executor}")
    return judge(problems, f"class from {least or 'none'}, executors {executors or []}")


def batch_report(c: ProofContext) -> Outcome:
    """Check 20."""
    encoded, batch, expected = c.session.batch_evidence, c.bundle.proof.batch, "evidence over this batch"
    if not c.policy.strict:
        return not_asked(encoded)
    if encoded is None or batch is None:
        return Outcome(FAIL, expected, "no evidence over a batch")
    if c.session.software is None:
        return Outcome(FAIL, expected, HARDWARE)
    try:
        evidence = s.read_software_evidence(encoded)
    except Malformed as e:
        return Outcome(FAIL, expected, str(e))
    problems = []
    if measurement(c).result != PASS:
        problems.append("check 7 fails for it")
    if evidence.node_key != c.session.software.node_key:
        problems.append("another node key")
    report_data = hashlib.sha512(b"grey.batch-report.v1\0" + c.bundle.proof.signed.payload).digest()
    if evidence.binding != report_data:
        problems.append("another batch")
    if not signed_by_node(evidence):
        problems.append("the node's signature does not verify")
    return judge(problems, expected)


def view_check(c: ProofContext) -> Outcome:
    """Check 21."""
    if c.known.view is None:
        return Outcome(SKIPPED, "not asked")
    names = view.differences(c.known.view, view.view_of(c.bundle))
    return judge([f"other {name}" for name in names], "the view of this bundle")


# Verdicts.

SESSION_STEPS: list[Callable[[Context], Outcome]] = [
    hardware_only,
    certificate_matches_report,
    hardware_only,
    hardware_only,
    hardware_only,
    measurement,
    key_binding,
]
PROOF_STEPS: list[Callable[[ProofContext], Outcome]] = [
    session,
    signature,
    outcome,
    model_hash,
    input_hash,
    output_hash,
    request,
    nonce,
    freshness,
    replay,
    execution,
    batch_report,
    view_check,
]


def required(policy: Policy, known: Known) -> set[str]:
    """The checks that may not be skipped."""
    asked = {
        "model-hash": known.model_hash is not None,
        "input-hash": known.inputs is not None,
        "output-hash": known.outputs is not None,
        "request": known.request is not None,
        "nonce": known.nonce is not None,
        "freshness": policy.max_age is not None,
        "replay": known.seen is not None,
        "execution": policy.execution is not None or policy.executors is not None,
        "batch-report": policy.strict,
        "view": known.view is not None,
    }
    return set(CHECKS[:ALWAYS_REQUIRED]) | {name for name, given in asked.items() if given}


def verdict(names: tuple[str, ...], outcomes: list[Outcome], needed: set[str], capped: bool) -> dict[str, Any]:
    """The verdict; checks after the last outcome are skipped."""
    outcomes = outcomes + [Outcome(SKIPPED)] * (len(names) - len(outcomes))
    checks = [
        {"name": name, "result": o.result, "expected": o.expected, "found": o.found}
        for name, o in zip(names, outcomes, strict=True)
    ]
    bad = any(c["result"] == FAIL or (c["result"] == SKIPPED and c["name"] in needed) for c in checks)
    return {"overall": NOT_VALID if bad else CLAIMED_TIME if capped else VALID, "checks": checks}


def verify(bundle: bytes, policy: dict[str, Any], now: int, known: dict[str, Any]) -> dict[str, Any]:
    """The verdict on a bundle; `policy` and `known` are JSON as `load_json` gives it."""
    p, k = parse_policy(policy), parse_known(known)
    needed = required(p, k)
    try:
        parsed = s.read_bundle(bundle)
    except Malformed as e:
        return verdict(CHECKS, [Outcome(FAIL, "the form of the page", str(e))], needed, False)
    c = ProofContext(parsed.session, p, now, k, parsed)
    outcomes = [Outcome(PASS)]
    outcomes += [step(c) for step in SESSION_STEPS]
    outcomes += [step(c) for step in PROOF_STEPS]
    # Tokens count as none here, so nothing lifts the cap of mode archival.
    return verdict(CHECKS, outcomes, needed, p.mode == "archival")


def verify_session(session_bundle: bytes, policy: dict[str, Any], now: int, known: dict[str, Any]) -> dict[str, Any]:
    """The verdict on a session alone; times are those of mode fresh."""
    p, k = parse_policy(policy), parse_known(known)
    needed = set(SESSION_CHECKS)
    try:
        parsed = s.read_session_bundle(session_bundle)
    except Malformed as e:
        return verdict(SESSION_CHECKS, [Outcome(FAIL, "the form of the page", str(e))], needed, False)
    c = Context(parsed, p, now, k)
    outcomes = [Outcome(PASS), *(step(c) for step in SESSION_STEPS), session_alone(c)]
    return verdict(SESSION_CHECKS, outcomes, needed, False)
