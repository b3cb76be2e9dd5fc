"""An answer with a proof: kept in a file, verified by somebody who has no node, and refused once it is changed.

Run it: python examples/proofs.py

Over the network `grey.Client` judges each proof on arrival: `client.infer(…, verify=grey.Policy(…))`.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import digits
import grey

MODEL, PROOF = Path("digits.onnx"), Path("answer.proof")
images, _ = digits.train(MODEL)

# Whoever asks: a nonce of one's own shows that the proof was not made before.
nonce = secrets.token_bytes(32)
inputs = {"pixels": images[:1]}
with grey.Node() as node:
    node.add("digits", MODEL)
    result = node.infer("digits", inputs, prove=True, nonce=nonce)
    # Without a TEE a key of the node's own signs: get it from whoever runs the node, not from the answer.
    node_key = node.identity()["node_key"]
assert result.proof is not None
PROOF.write_bytes(result.proof.proof)
print(f"the answer: {result['probabilities'].argmax()}; its proof: {PROOF}, {PROOF.stat().st_size} bytes\n")

# Whoever verifies, elsewhere and later: what is expected is their own knowledge.
known: dict[str, Any] = {
    "software_keys": [node_key],
    "expected_model_hash": hashlib.sha256(MODEL.read_bytes()).hexdigest(),
    "inputs": inputs,
    "outputs": result.outputs,
    "nonce": nonce,
}
verdict = grey.verify(PROOF, **known)
print(verdict)
assert verdict, verdict.why

print("\nwith something changed:")
for what, changed in {
    "another model": {"expected_model_hash": hashlib.sha256(b"another").hexdigest()},
    "another image": {"inputs": {"pixels": images[1:2]}},
    "another answer": {"outputs": {"probabilities": result["probabilities"][:, ::-1]}},
    "another question's nonce": {"nonce": secrets.token_bytes(32)},
    "another node": {"software_keys": [secrets.token_bytes(32).hex()]},
}.items():
    verdict = grey.verify(PROOF, **(known | changed))
    print(f"  {what:25} {verdict.why:.90}")
    assert not verdict
