"""What tests of proofs share: requests that ask for one, and the parts of what comes back."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from conftest import GreyNode, Reply
from support.second_verifier import cbor, verify
from support.second_verifier.tensors import Tensor, tensor_hash

DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}


def tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    """An array as OIP's JSON has it."""
    data = array.ravel().tolist()
    return {"name": name, "datatype": DATATYPES[array.dtype], "shape": list(array.shape), "data": data}


def known_tensor(t: dict[str, Any]) -> dict[str, Any]:
    """A tensor of OIP's JSON as `known` has it."""
    dtype = {v: k for k, v in DATATYPES.items()}[t["datatype"]]
    data = np.array(t["data"], dtype).tobytes()
    return {
        "name": t["name"],
        "datatype": t["datatype"],
        "shape": t["shape"],
        "data": base64.b64encode(data).decode(),
    }


def hash_of(tensors: list[dict[str, Any]]) -> bytes:
    """The hash of inputs or outputs of OIP's JSON."""
    known = [known_tensor(t) for t in tensors]
    return tensor_hash([Tensor(**t | {"data": base64.b64decode(t["data"])}) for t in known], None)


@dataclass
class Answer:
    """A proven answer, with what was sent for it."""

    model: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    proof: bytes
    session: str

    @staticmethod
    def read(model: str, inputs: list[dict[str, Any]], reply: Reply) -> Answer:
        given = reply.json["parameters"]
        proof = base64.b64decode(given["grey_proof"], validate=True)
        return Answer(model, inputs, reply.json["outputs"], proof, given["grey_session"])

    @property
    def base64(self) -> str:
        return base64.b64encode(self.proof).decode()

    @property
    def claims(self) -> dict[int, Any]:
        decoded = cbor.decode(self.proof)
        payload = decoded[0] if isinstance(decoded, list) else decoded.item[2]
        claims: dict[int, Any] = cbor.decode(payload)
        return claims

    @property
    def is_batch(self) -> bool:
        return isinstance(cbor.decode(self.proof), list)

    @property
    def exec(self) -> dict[int, Any]:
        made: dict[int, Any] = self.claims[-70009]
        return made

    @property
    def segments(self) -> list[tuple[int, int, int]]:
        return [tuple(s) for s in self.exec[5]]

    def known(self) -> dict[str, Any]:
        return {
            "inputs": [known_tensor(t) for t in self.inputs],
            "outputs": [known_tensor(t) for t in self.outputs],
        }


def prove(node: GreyNode, model: str, inputs: list[dict[str, Any]], **parameters: Any) -> Answer:
    body = {"inputs": inputs, "parameters": {"grey_prove": True, **parameters}}
    reply = node.infer(model, body)
    assert reply.status == 200, reply.body
    return Answer.read(model, inputs, reply)


def restated(proof: bytes, claims: dict[int, Any]) -> bytes:
    """A proof of the single form with other claims, which its signature does not cover."""
    sign1 = cbor.decode(proof)
    stated = cbor.decode(sign1.item[2]) | claims
    items = [*sign1.item[:2], cbor.encode(stated), sign1.item[3]]
    return cbor.encode(cbor.Tag(18, items))


def session(node: GreyNode, digest: str, query: str = "") -> bytes:
    reply = node.request("GET", f"/grey/v1/sessions/{digest}{query}")
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"] == "application/cbor"
    return reply.body


def bundle(proof: bytes, session_bundle: bytes) -> bytes:
    """Member 1, which stands first, in front of a session's members."""
    head = session_bundle[0]
    assert head >> 5 == 5
    assert head & 31 < 23
    return bytes([head + 1, 1]) + cbor.encode(proof) + session_bundle[1:]


def node_key(node: GreyNode) -> str:
    key: str = node.request("GET", "/grey/v1/node").json["proofs"]["node_key"]
    return key


def check(
    node: GreyNode, answer: Answer, now: int, known: dict[str, Any] | None = None, **policy: Any
) -> dict[str, Any]:
    """The verdict of the second verifier."""
    whole = bundle(answer.proof, session(node, answer.session))
    policy = {"software_keys": [node_key(node)]} | policy
    return verify(whole, policy, now, answer.known() if known is None else known)


def replay(node: GreyNode, answer: Answer, **parameters: Any) -> Any:
    body = {"inputs": answer.inputs, "parameters": {"grey_proof": answer.base64, **parameters}}
    return node.request("POST", "/grey/v1/replay", json.dumps(body))
