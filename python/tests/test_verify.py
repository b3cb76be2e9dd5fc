"""Verification from Python: the vectors give the same verdicts, and the front hides nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grey
import ml_dtypes
import numpy as np
import proof_vectors as vectors
import pytest
from grey._tensors import known_tensors

from integrations.ai.proof_verifier import verify_inference_proof

LEAST_PROOFS = 60
OTHER_HASH = "ab" * 32
DTYPES = {
    "BOOL": "bool",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "BF16": ml_dtypes.bfloat16,
    "FP32": "f4",
    "FP64": "f8",
}


def array(tensor: dict[str, Any]) -> Any:
    """A known tensor as an array; BYTES is one of objects."""
    data = base64.b64decode(tensor["data"])
    if tensor["datatype"] != "BYTES":
        return np.frombuffer(data, DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
    elements = []
    while data:
        size = int.from_bytes(data[:4], "little")
        elements.append(data[4 : 4 + size])
        data = data[4 + size :]
    made = np.empty(len(elements), object)
    made[:] = elements
    return made.reshape(tensor["shape"])


def arrays(tensors: list[dict[str, Any]]) -> dict[str, Any]:
    """Known tensors as arrays by name."""
    return {t["name"]: array(t) for t in tensors}


@pytest.fixture(scope="module")
def good() -> vectors.Vector:
    """A proof that is valid, with a policy of one node key."""
    return vectors.good()


@pytest.fixture(scope="module")
def proof(good: vectors.Vector) -> grey.InferenceProof:
    """The same as a view."""
    return grey.InferenceProof.from_bundle(good.bundle)


@pytest.fixture
def asked_of(tmp_path: Path) -> Callable[[vectors.Vector], dict[str, Any]]:
    """What a vector asks: the policy in a file, known values as JSON."""

    def asked_of(v: vectors.Vector) -> dict[str, Any]:
        policy = tmp_path / "policy.json"
        policy.write_text(v.policy_text)
        return {"policy": policy, "now": v.now, "known": v.known_text}

    return asked_of


@pytest.fixture
def ask(good: vectors.Vector) -> Callable[..., grey.Verdict]:
    """Asks for the proof at its time; its own node key is allowed."""

    def ask(proof: Any = good.bundle, **asked: Any) -> grey.Verdict:
        return grey.verify(proof, **{"now": good.now, "software_keys": good.policy["software_keys"]} | asked)

    return ask


# The vectors.


def test_there_are_vectors() -> None:
    assert len(vectors.PROOFS) >= LEAST_PROOFS
    assert vectors.SESSIONS
    assert vectors.ERRORS


def agrees(verdict: grey.Verdict, vector: vectors.Vector) -> None:
    """Overall, truth and the failing check are those of the vector."""
    assert verdict.overall == vector.overall, verdict
    assert bool(verdict) == (vector.overall == "valid")
    assert [c.name for c in verdict.failed] == ([vector.check] if vector.check else [])


@pytest.mark.parametrize("path", vectors.PROOFS, ids=lambda p: p.stem)
def test_proof(path: Path, asked_of: Callable[[vectors.Vector], dict[str, Any]]) -> None:
    v = vectors.read(path)
    verdict = grey.verify(v.bundle, **asked_of(v))
    assert len(verdict.checks) == 21
    agrees(verdict, v)


@pytest.mark.parametrize("path", vectors.SESSIONS, ids=lambda p: p.stem)
def test_session(path: Path, tmp_path: Path, asked_of: Callable[[vectors.Vector], dict[str, Any]]) -> None:
    v = vectors.read(path)
    verdict = grey.verify_session(v.bundle, **asked_of(v))
    assert len(verdict.checks) == 9
    agrees(verdict, v)
    (tmp_path / "session").write_bytes(v.bundle)
    assert verdict == grey.verify_session(tmp_path / "session", policy=v.policy, now=v.now, known=v.known)


@pytest.mark.parametrize("path", vectors.ERRORS, ids=lambda p: p.stem)
def test_error(path: Path, asked_of: Callable[[vectors.Vector], dict[str, Any]]) -> None:
    v = vectors.read(path)
    part = json.loads(path.read_text())["error"]
    with pytest.raises(grey.ProofInputError, match=f"^{part}"):
        grey.verify(v.bundle, **asked_of(v))


@pytest.mark.parametrize("path", vectors.PROOFS, ids=lambda p: p.stem)
def test_whatever_is_well_formed_has_a_view_that_comes_back(path: Path) -> None:
    v = vectors.read(path)
    if v.check == "well-formed":
        with pytest.raises(grey.ProofInputError):
            grey.InferenceProof.from_bundle(v.bundle)
        return
    proof = grey.InferenceProof.from_bundle(v.bundle)
    assert proof.proof == v.bundle
    assert grey.InferenceProof.from_json(proof.to_json()) == proof
    known = {name: value for name, value in v.known.items() if name != "view"}
    view = grey.verify(proof, policy=v.policy, now=v.now, known=known).checks[-1]
    assert (view.name, view.result) == ("view", "pass")


# Proofs as they may be given.


def test_every_form_of_a_proof(ask: Callable[..., grey.Verdict], proof: grey.InferenceProof, tmp_path: Path) -> None:
    (tmp_path / "a.proof").write_bytes(proof.proof)
    (tmp_path / "a.json").write_text(proof.to_json())
    seen: list[tuple[Any, str]] = [
        (proof.proof, "skipped"),
        (tmp_path / "a.proof", "skipped"),
        (proof, "pass"),
        (proof.to_dict(), "pass"),
        (proof.to_json(), "pass"),
        (tmp_path / "a.json", "pass"),
    ]
    for form, view in seen:
        verdict = ask(form)
        assert verdict
        assert verdict.checks[-1].result == view
    assert grey.InferenceProof.from_json(tmp_path / "a.json") == proof
    with pytest.raises(FileNotFoundError):
        ask(tmp_path / "none")
    # A text may be a stranger's; it opens no file.
    with pytest.raises(grey.ProofInputError, match=r"^proof: expected JSON"):
        ask(str(tmp_path / "a.proof"))


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "another"},
        {"model_hash": OTHER_HASH},
        {"output_hash": ""},
        {"platform": "SGX"},
        {"report_data": b""},
        {"timestamp": 0},
        {"nonce": b"12345678"},
        {"exec": None},
    ],
    ids=str,
)
def test_an_edited_view_is_not_valid(
    ask: Callable[..., grey.Verdict], proof: grey.InferenceProof, change: dict[str, Any]
) -> None:
    edited = replace(proof, **change)
    assert edited != proof
    for form in (edited, edited.to_json()):
        verdict = ask(form)
        assert not verdict
        assert [c.name for c in verdict.failed] == ["view"]
    assert not ask(proof.to_dict() | {"verified": True})


def test_the_fields_of_the_document_come_first_and_are_all_that_is_needed() -> None:
    first = "task_id model_id model_hash input_hash output_hash platform measurement report_data signature timestamp"
    names = [f.name for f in fields(grey.InferenceProof)]
    assert names == [*first.split(), "model_version", "nonce", "exec", "proof"]
    made = grey.InferenceProof("", "", "", "", "", "SGX", "", b"", b"", 0)
    with pytest.raises(grey.ProofInputError, match="proof/proof: expected the bundle, found none"):
        grey.verify(made, software_keys="any")


def test_a_proof_with_nothing_to_judge_is_an_error(
    ask: Callable[..., grey.Verdict], proof: grey.InferenceProof, tmp_path: Path
) -> None:
    whole = proof.to_dict()
    text = proof.to_json()
    (tmp_path / "broken.json").write_text(text[:-1])
    forms: list[tuple[Any, str]] = [
        ("", "^proof: expected JSON"),
        ("[]", "^proof: expected an object, found list"),
        (text[:-1], "^proof: expected JSON"),
        (tmp_path / "broken.json", "^proof: expected JSON"),
        (text[:-1] + ', "a": NaN}', "^proof: expected JSON, found NaN"),
        (text[:-1] + ', "model_id": "m"}', "^proof: expected each member once, found 'model_id' twice"),
        (whole | {"model_id": b"m"}, "^known: expected values that JSON has"),
        (whole | {"proof": 3}, "^proof/proof: expected base64, found int"),
        (whole | {"proof": ""}, "^proof/proof: expected the bundle, found none"),
        (replace(proof, proof=b""), "^proof/proof: expected the bundle, found none"),
        (replace(proof, report_data="x"), "^proof/report_data: expected bytes, found str"),  # type: ignore[arg-type]
        (replace(proof, proof=None), "^proof/proof: expected bytes, found NoneType"),  # type: ignore[arg-type]
        (replace(proof, nonce=7), "^proof/nonce: expected bytes, found int"),  # type: ignore[arg-type]
    ]
    for form, told in forms:
        with pytest.raises(grey.ProofInputError, match=told):
            ask(form)
    (tmp_path / "list.json").write_text("[]")
    junk = base64.b64encode(b"junk").decode()
    for form in (b"", b"junk", tmp_path / "list.json", whole | {"proof": junk}, json.dumps({"proof": junk})):
        assert "well-formed" in [c.name for c in ask(form).failed]


def test_base64_has_one_form(ask: Callable[..., grey.Verdict], proof: grey.InferenceProof) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    whole = proof.to_dict()
    signature = whole["signature"]
    # 64 bytes leave four bits of the last letter unused.
    assert signature.endswith("==")
    last = letters[letters.index(signature[-3]) ^ 1]
    for altered in (signature[:-3] + last + "==", signature[:-2], signature + "=", f"{signature}\n", f" {signature}"):
        with pytest.raises(grey.ProofInputError, match=r"^proof/signature: expected "):
            grey.InferenceProof.from_json(whole | {"signature": altered})
        assert [c.name for c in ask(whole | {"signature": altered}).failed] == ["view"]
        with pytest.raises(grey.ProofInputError, match=r"^proof/proof: expected "):
            ask(whole | {"proof": altered})


def test_printing_a_proof(proof: grey.InferenceProof) -> None:
    shown = json.loads(str(proof))
    assert shown["platform"] == "SOFTWARE"
    assert proof.measurement.startswith(shown["measurement"].removesuffix("…"))
    assert len(repr(proof)) < 200
    assert hash(proof) == hash(replace(proof))


def test_a_view_is_read_strictly(proof: grey.InferenceProof) -> None:
    whole = proof.to_dict()
    for change, told in (
        ({"signature": "?"}, "proof/signature: expected base64"),
        ({"timestamp": "1"}, "proof/timestamp: expected an integer, found str"),
        ({"model_hash": ""}, "proof/model_hash: expected a text"),
        ({"exec": []}, "proof/exec: expected an object, found list"),
        ({"more": 1}, "proof/more: expected no such member"),
    ):
        with pytest.raises(grey.ProofInputError, match=told):
            grey.InferenceProof.from_json(whole | change)
    del whole["task_id"]
    with pytest.raises(grey.ProofInputError, match="proof/task_id: expected the member"):
        grey.InferenceProof.from_json(json.dumps(whole))


# What is asked.


def test_nothing_expected_is_never_valid(good: vectors.Vector) -> None:
    verdict = grey.verify(good.bundle, now=good.now)
    assert not verdict
    assert "nothing expected" in verdict.why


def test_software_never_passes_for_hardware(proof: grey.InferenceProof, good: vectors.Vector) -> None:
    for asked in ({}, {"software_keys": "any"}):
        verdict = grey.verify(proof, expected_mrenclave=proof.measurement, now=good.now, **asked)
        assert [c.name for c in verdict.failed] == ["measurement"]
        assert "SOFTWARE" in repr(verdict)


def test_expectations(ask: Callable[..., grey.Verdict], proof: grey.InferenceProof, good: vectors.Vector) -> None:
    key, digest = good.policy["software_keys"][0], proof.model_hash
    assert ask(software_keys="any")
    assert ask(software_keys=[bytes.fromhex(key)])
    assert ask(expected_measurement=proof.measurement, expected_model_hash=digest)
    assert ask(expected_measurement=bytes.fromhex(proof.measurement), expected_model_hash=bytes.fromhex(digest))
    schemes = [bool(ask(expected_model_hash=f"{s}:{digest}")) for s in ("sha256-file", "sha256-files")]
    assert sorted(schemes) == [False, True]
    for asked, failed in (
        ({"software_keys": [OTHER_HASH]}, "measurement"),
        ({"expected_measurement": OTHER_HASH}, "measurement"),
        ({"expected_model_hash": OTHER_HASH}, "model-hash"),
        ({"nonce": b"another nonce"}, "nonce"),
        ({"session_nonce": b"another nonce"}, "key-binding"),
        ({"request": {"model_id": "another"}}, "request"),
        ({"seen": {proof.task_id}}, "replay"),
        ({"policy": {"max_age": 0}, "now": proof.timestamp + 1}, "freshness"),
    ):
        verdict = ask(**asked)
        assert [c.name for c in verdict.failed] == [failed]
        assert verdict.why.startswith(f"not valid: {failed}: expected ")
        assert repr(verdict) == verdict.why
    assert ask(nonce=proof.nonce, seen=[], request={"task_id": proof.task_id, "model_id": proof.model_id})


def test_now(ask: Callable[..., grey.Verdict], good: vectors.Vector) -> None:
    assert ask(now=datetime.fromtimestamp(good.now, UTC))
    assert not ask(now=0)
    for now in (datetime(2027, 1, 1), -1, 2**63, 1.0, True):
        with pytest.raises(grey.ProofInputError, match=r"^now: "):
            ask(now=now)


def test_a_verdict_reads_well(ask: Callable[..., grey.Verdict]) -> None:
    verdict = ask()
    assert repr(verdict) == "valid"
    lines = str(verdict).splitlines()
    assert lines[0] == "valid"
    assert [line.split()[0] for line in lines[2:]] == [c.name for c in verdict.checks]
    assert repr(ask(b"")).startswith("not valid: well-formed: ")
    archival = ask(policy={"mode": "archival"})
    assert not archival
    assert archival.why.startswith("valid at claimed time: ")


def test_a_check_that_was_asked_for_and_not_made_says_why() -> None:
    salted = [v for v in map(vectors.read, vectors.PROOFS) if v.overall == "not valid" and v.check is None]
    assert salted
    for v in salted:
        verdict = grey.verify(v.bundle, policy=v.policy, now=v.now, known=v.known)
        assert not verdict.failed
        assert "expected the salt, found none" in repr(verdict)


# Policies.


def test_forms_of_a_policy(ask: Callable[..., grey.Verdict], good: vectors.Vector, tmp_path: Path) -> None:
    [key] = good.policy["software_keys"]
    (tmp_path / "p.yaml").write_text(f"software_keys:\n  - '{key}'\nmax_skew: 5 # seconds\n")
    (tmp_path / "p.json").write_text(json.dumps(good.policy))
    for policy in (tmp_path / "p.yaml", str(tmp_path / "p.json"), json.dumps(good.policy), good.policy):
        assert ask(policy=policy, software_keys=None)
        assert not ask(policy=policy, software_keys=None, expected_measurement=OTHER_HASH)
        with pytest.raises(grey.ProofInputError, match="policy/software_keys: expected each member once"):
            ask(policy=policy)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"no_such": 1}, "^policy/no_such: expected one of platforms"),
        ({"mode": 1}, "^policy/mode: "),
        ({"max_age": float("nan")}, "^policy: expected values that JSON has"),
        ({"expected_mrenclave": b"bytes"}, "^policy: expected values that JSON has"),
        ({"expected_mrsigner": OTHER_HASH}, "^policy/expected_product: "),
        ('{"mode": "fresh", "mode": "fresh"}', "^policy: expected each member once, found 'mode' twice"),
        ("{", "^policy: expected JSON"),
        (3, "^policy: expected a Policy, a mapping, JSON or a path, found int"),
    ],
    ids=str,
)
def test_bad_policies(ask: Callable[..., grey.Verdict], policy: Any, told: str) -> None:
    with pytest.raises(grey.ProofInputError, match=told):
        ask(policy=policy)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_age: 1\nmax_age: 1\n", "line 2"),
        ("roots: [", "line 1"),
        ("- max_age\n", "expected an object"),
        (f"expected_mrenclave: {'0' * 64}\n", "policy/expected_mrenclave: expected text"),
        ("tee: \xff", "policy"),
    ],
)
def test_bad_policy_files(ask: Callable[..., grey.Verdict], tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "p.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(grey.ProofInputError, match=told):
        ask(policy=tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"expected_mrenclave": "abc123..."}, r"^policy/expected_mrenclave: expected 32 bytes in hex, found 'abc123"),
        ({"expected_model_hash": "md5:00"}, "^known/model_hash: "),
        ({"software_keys": ["12"]}, "^policy/software_keys/0: expected 32 bytes in hex, found '12'"),
        ({"software_keys": b"12"}, "^policy/software_keys: expected a list"),
        ({"nonce": "text"}, "^known/nonce: expected bytes, found str"),
        ({"nonce": b"12345678", "known": {"nonce": "AAAA"}}, "^known/nonce: expected each member once"),
        ({"request": {"no_such": 1}}, "^known/request/no_such: "),
        ({"seen": ["no id"]}, "^known/seen/0: "),
        ({"proof": 3}, "^proof: expected an InferenceProof, bytes, JSON or a path, found int"),
        ({"proof": "{}"}, "^proof/proof: expected the bundle, found none"),
        ({"proof": '{"a":' * 100_000}, "^proof: expected JSON"),
        ({"inputs": {"x": [1.0]}}, "^known/inputs/x: expected texts or bytes, found float"),
        ({"inputs": {"x": 1.0}}, "^known/inputs/x: expected an array, or a list of texts, found float"),
        ({"inputs": {"x": np.array([1j])}}, "^known/inputs/x: expected a dtype among .* found complex128"),
        ({"inputs": {"x": np.array([1, "a"], object)}}, "^known/inputs/x: expected texts or bytes, found int"),
        ({"outputs": np.zeros(1)}, "^known/outputs: expected arrays by name or a list, found ndarray"),
        ({"outputs": [{"name": "x"}]}, "^known/outputs/0/datatype: "),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_questions(ask: Callable[..., grey.Verdict], asked: dict[str, Any], told: str) -> None:
    with pytest.raises(grey.ProofInputError, match=told):
        ask(**asked)


# Tensors.


def test_arrays_are_the_known_tensors(ask: Callable[..., grey.Verdict], good: vectors.Vector) -> None:
    inputs, outputs = arrays(good.known["inputs"]), arrays(good.known["outputs"])
    salt = good.known.get("salt")
    asked = {"outputs": outputs, "salt": None if salt is None else base64.b64decode(salt)}
    assert ask(inputs=inputs, **asked)
    raw = [t | {"data": base64.b64decode(t["data"])} for t in good.known["inputs"]]
    assert ask(inputs=raw, **asked)
    verdict = ask(inputs={f"{name}x": a for name, a in inputs.items()}, **asked)
    assert [c.name for c in verdict.failed] == ["input-hash"]


def test_every_dtype_in_every_layout() -> None:
    for datatype, dtype in DTYPES.items():
        a = np.array([[1, 0, 3], [4, 5, 6]]).astype(dtype)
        for same in (a, np.asfortranarray(a), a[::-1, ::-1][::-1, ::-1]):
            [tensor] = known_tensors("inputs", {"x": same})
            assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", datatype, [2, 3])
            assert base64.b64decode(tensor["data"]) == a.tobytes()
    [big, scalar, empty] = known_tensors(
        "inputs", {"b": np.array([1], ">f4"), "s": np.float32(1), "e": np.zeros((0, 3))}
    )
    assert base64.b64decode(big["data"]) == base64.b64decode(scalar["data"]) == b"\0\0\x80\x3f"
    assert (scalar["shape"], empty["shape"], empty["data"]) == ([], [0, 3], "")


def test_texts_are_bytes_tensors() -> None:
    forms: list[Any] = [
        ["é", ""],
        ["é".encode(), b""],
        np.array(["é", ""]),
        np.array(["é".encode(), b""]),
        np.array(["é", b""], object),
        np.array(["é", ""], np.dtypes.StringDType()),
    ]
    for form in forms:
        [tensor] = known_tensors("inputs", {"text": form})
        assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [2])
        assert base64.b64decode(tensor["data"]) == b"\x02\0\0\0\xc3\xa9\0\0\0\0"


# The package.


def test_the_snippet_of_the_integration(proof: grey.InferenceProof, good: vectors.Vector) -> None:
    # The one change of a machine without a TEE: software_keys in place of expected_mrenclave.
    keys, now = good.policy["software_keys"], good.now
    assert verify_inference_proof(proof, software_keys=keys, expected_model_hash=proof.model_hash, now=now)
    assert not verify_inference_proof(proof, software_keys=keys, expected_model_hash=OTHER_HASH, now=now)
    assert not verify_inference_proof(proof, proof.measurement, proof.model_hash, now=now)


def test_the_wheel_brings_the_integrations(tmp_path: Path) -> None:
    script = (
        "import sys, integrations.ai.proof_verifier as p, grey; "
        "print(p.__file__); assert p.InferenceProof is grey.InferenceProof; assert 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(sys.prefix)


def test_a_host_loads_nothing_of_proofs() -> None:
    script = "import sys, grey.host; assert not {'grey.proofs', 'json', 'dataclasses'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert {"verify", "InferenceProof"} <= set(dir(grey))
    with pytest.raises(AttributeError, match="no attribute 'verfy'"):
        _ = grey.verfy  # type: ignore[attr-defined]
