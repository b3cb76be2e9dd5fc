"""What an inference gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from grey.proofs import InferenceProof
    from grey.verdict import Verdict

__all__ = ["InferResult", "Model", "ModelStatus", "NodeInfo", "Replay", "TensorSpec"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model.

    :ivar datatype: as the Open Inference Protocol calls it, e.g. ``FP32``.
    :ivar shape: sizes; where any will do, ``-1`` or the name that the model has for it.
    """

    name: str
    datatype: str
    shape: tuple[int | str, ...]

    @classmethod
    def from_members(cls, members: dict[str, Any]) -> TensorSpec:
        """Of the JSON that a node gives."""
        return cls(members["name"], members["datatype"], tuple(members["shape"]))


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A version of a model, and what it does now.

    :ivar latest: whether calls that name no version get this one.
    :ivar state: ``registered``, ``loading``, ``ready``, ``failed`` or ``unloaded``.
    :ivar reason: why, where the state needs a reason; else empty.
    :ivar labels: those that mean this version, ``latest`` among them.
    """

    id: str
    version: str
    latest: bool
    state: str
    reason: str
    labels: tuple[str, ...]

    @classmethod
    def from_members(cls, members: dict[str, Any]) -> ModelStatus:
        """Of the JSON that a node gives."""
        named = {name: members[name] for name in ("id", "version", "latest", "state", "reason")}
        return cls(**named, labels=tuple(members["labels"]))


@dataclass(frozen=True, slots=True)
class Model:
    """All about one version of a model.

    :ivar labels: those that mean this version, ``latest`` among them.
    :ivar model_hash: SHA-256 in hex, as proofs state it; ``model_hash_scheme`` says of what.
    :ivar batching: whether and how calls share runs, and why: ``enabled``, ``reason``, ``max_batch_size``, ``hold``,
        ``max_wait_ms``, ``buckets``.
    :ivar proofs: whether answers can be proven, and why: ``on``, ``class``, ``reason``, …
    :ivar hosts: the processes that run it: ``pid`` and ``runtime``.
    :ivar members: everything that the node said, as it said it.
    """

    id: str
    version: str
    latest: bool
    state: str
    reason: str
    labels: tuple[str, ...]
    engine: str
    model_hash: str
    model_hash_scheme: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    batching: dict[str, Any]
    proofs: dict[str, Any]
    hosts: tuple[dict[str, Any], ...]
    members: dict[str, Any]

    @classmethod
    def from_members(cls, members: dict[str, Any]) -> Model:
        """Of the JSON that a node gives."""
        signature = members["signature"]
        return cls(
            **{name: members[name] for name in ("id", "version", "latest", "state", "reason", "engine")},
            **{name: members[name] for name in ("model_hash", "model_hash_scheme", "metadata", "batching", "proofs")},
            inputs=tuple(map(TensorSpec.from_members, signature["inputs"])),
            outputs=tuple(map(TensorSpec.from_members, signature["outputs"])),
            labels=tuple(members["labels"]),
            hosts=tuple(members["hosts"]),
            members=members,
        )


@dataclass(slots=True, eq=False)
class InferResult:
    """The answer to one ``infer``.

    :ivar outputs: the arrays by name, in the order asked for. Dtypes are those of the model; text and bytes
        (``BYTES``) are arrays of ``object`` that hold ``bytes``; ``BF16`` comes as ``float32``, which holds every
        such value exactly.
    :ivar model: the model that ran.
    :ivar version: the version that ran.
    :ivar id: the id given with the call, else empty.
    :ivar parameters: what else the node said.
    :ivar proof: the proof, where one was asked for.
    :ivar queue_seconds: from acceptance to the start of the run; ``None`` where the node does not tell.
    :ivar execute_seconds: the run itself; ``None`` where the node does not tell.
    :ivar verdict: on the proof, where a client was to verify it: ``valid``, or there would be an exception.
    """

    outputs: dict[str, np.ndarray[Any, Any]]
    model: str
    version: str
    id: str = ""
    parameters: dict[str, bool | int | float | str] | None = None
    proof: InferenceProof | None = None
    queue_seconds: float | None = None
    execute_seconds: float | None = None
    verdict: Verdict | None = None

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """An output by its name."""
        try:
            return self.outputs[name]
        except KeyError:
            has = ", ".join(map(repr, self.outputs))
            raise KeyError(f"no output {name!r}; the answer has {has or 'none'}") from None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node.

    :ivar ready: whether it takes calls; else ``reason`` says why not.
    :ivar platform: of its evidence: SGX, TDX, SEV-SNP or SOFTWARE.
    :ivar measurement: what its evidence states as measured, in hex.
    :ivar node_key: the key that signs SOFTWARE evidence, in hex. Whoever verifies asks its operator for it, not the
        node.
    """

    version: str
    ready: bool
    reason: str
    platform: str
    measurement: str
    node_key: str

    @classmethod
    def from_members(cls, members: dict[str, Any]) -> NodeInfo:
        """Of the JSON that a node gives."""
        proofs = (members["proofs"][name] for name in ("platform", "measurement", "node_key"))
        return cls(members["version"], members["ready"], members["reason"], *proofs)


@dataclass(slots=True)
class Replay:
    """How the replay of a proof ended. It is true only if the bytes are the same.

    :ivar result: ``reproduced``, ``differs``, or ``profile-differs`` where this node is not what the proof states.
    :ivar model: the model that the proof is of.
    :ivar version: its version.
    :ivar determinism: the class of the proof, e.g. ``slot``.
    :ivar recorded_output_hash: as the proof states it, in hex.
    :ivar replayed_output_hash: of ``outputs``, in hex.
    :ivar differences: where this node is not what the proof states: ``member``, ``recorded``, ``here``.
    :ivar outputs: what the replay gave, arrays by name.
    """

    result: str
    model: str
    version: str
    determinism: str
    recorded_output_hash: str
    replayed_output_hash: str
    differences: tuple[dict[str, str], ...]
    outputs: dict[str, np.ndarray[Any, Any]]

    @classmethod
    def from_members(cls, members: dict[str, Any], outputs: dict[str, np.ndarray[Any, Any]]) -> Replay:
        """Of the JSON that a client gives, and the outputs."""
        return cls(**members | {"differences": tuple(members["differences"])}, outputs=outputs)

    def __bool__(self) -> bool:
        return self.result == "reproduced"
