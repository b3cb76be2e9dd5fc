"""A client of a node, here or far away.

:class:`Client` has plain methods, :class:`AsyncClient` the same ones to ``await``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from grey import _arrays, _inputs, _native
from grey._calls import TimeLeft, names, outcome, paths, texts
from grey.errors import InvalidArgument
from grey.proofs import InferenceProof, PolicyLike
from grey.results import InferResult, Model, ModelStatus, NodeInfo, Replay, TensorSpec

__all__ = ["AsyncClient", "Client", "replay"]

Parameters = Mapping[str, bool | int | float | str]


class _Base:
    """What both forms are: an address, settings, and the native client."""

    def __init__(
        self,
        url: str,
        *,
        tenant: str | None = None,
        timeout: float = 60.0,
        load_timeout: float = 900.0,
        connect_timeout: float = 5.0,
        retries: int = 5,
        connections: int = 100,
        max_answer_bytes: int = 1 << 30,
    ) -> None:
        self._url = url
        self._settings = {
            "tenant": tenant,
            "timeout": timeout,
            "load_timeout": load_timeout,
            "connect_timeout": connect_timeout,
            "retries": retries,
            "connections": connections,
            "max_answer_bytes": max_answer_bytes,
        }
        for name, given in (("retries", retries), ("connections", connections), ("max_answer_bytes", max_answer_bytes)):
            least = 0 if name == "retries" else 1
            if isinstance(given, bool) or not isinstance(given, int) or given < least:
                raise InvalidArgument(f"{name}: expected an integer, {least} or more, found {given!r:.80}")
        self._native = _native.Client(
            url,
            tenant,
            timeout,
            load_timeout,
            connect_timeout,
            min(retries, _COUNT_MAX),
            min(connections, _COUNT_MAX),
            min(max_answer_bytes, _BYTES_MAX),
        )
        # What is known of versions, which never change.
        self._signatures: dict[tuple[str, str], list[TensorSpec]] = {}

    @property
    def url(self) -> str:
        """The node's address."""
        return self._url

    def _known(self, model: str, version: str | None) -> list[TensorSpec] | None:
        return self._signatures.get((model, version)) if version else None

    def _learn(self, model: str, version: str | None, metadata: str) -> list[TensorSpec]:
        specs = [TensorSpec.from_members(m) for m in json.loads(metadata)["inputs"]]
        # Other names may be labels, which move.
        if version and version.isdigit():
            if len(self._signatures) >= _SIGNATURES_MAX:
                self._signatures.clear()
            self._signatures[model, version] = specs
        return specs

    def _limit(self, timeout: float | None, usual: str) -> float:
        """How long a call may take."""
        return float(self._settings[usual] if timeout is None else timeout)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has the settings, and connections of its own.
        return (_restored, (type(self), self._url, self._settings))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"


# Versions whose inputs a client remembers.
_SIGNATURES_MAX = 1000
# What the native part counts to: whoever says more means no limit.
_COUNT_MAX = (1 << 32) - 1
_BYTES_MAX = (1 << 63) - 1


def _restored(form: type[_Base], url: str, settings: dict[str, Any]) -> _Base:
    return form(url, **settings)


class Client(_Base):
    """A client of a node.

    >>> with grey.Client(url) as client:
    ...     result = client.infer("digits", {"pixels": np.zeros((1, 64), np.float32)})
    >>> result["probabilities"].shape
    (1, 10)

    Tensors travel as binary data. Connections are kept and used again, by several threads at once too. A full node's
    503 is waited for and asked again as its ``Retry-After`` says, as long as the call's time allows; a request that
    found its connection closed is sent again on another one where that changes nothing. In a child that the program
    forked every method raises :class:`grey.Forked`: make a new client there. Copies and pickles of a client have its
    settings and connections of their own.

    :param url: the node's address, e.g. ``http://127.0.0.1:8000``. TLS is not supported yet.
    :param tenant: who asks, for fairness and metrics; by default the node's ``default``.
    :param timeout: seconds that a call may take, all of it: waiting for a connection, retries, reading, checking a
        proof. The node is told, and gives up what nobody waits for. ``math.inf`` for no limit.
    :param load_timeout: the same of ``load``, ``add``, ``unload``, ``remove`` and ``replay``, which open models.
    :param connect_timeout: seconds to wait for a new connection.
    :param retries: how often a call is made again that the node refuses with 503 and ``Retry-After``.
    :param connections: most connections at once; calls beyond wait for one.
    :param max_answer_bytes: a larger answer is refused before it fills the memory.
    :raises InvalidArgument: an address or a setting that cannot be; the text says what is expected.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Calls that are under way in other threads, and all later ones, raise
        :class:`grey.Closed`.
        """
        self._native.close()

    def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        tenant: str | None = None,
        prove: bool = False,
        verify: PolicyLike | None = None,
        model_hash: str | bytes | None = None,
        nonce: bytes | None = None,
        salt: bytes | None = None,
        parameters: Parameters | None = None,
        request_id: str = "",
    ) -> InferResult:
        """Run a model.

        >>> x = np.array([[1.0, 2.0]], np.float32)
        >>> client.infer("affine", {"x": x}, version="1")["y"]
        array([[5.]], dtype=float32)
        >>> client.infer("affine", [[1, 2]])["y"].tolist()
        [[5.0]]

        With a policy the answer comes only if its proof is valid: of this node, these inputs, these outputs and a
        fresh nonce.

        >>> policy = grey.Policy(software_keys=[node_key])
        >>> result = client.infer("affine", {"x": x}, verify=policy)
        >>> result.verdict
        valid
        >>> result.proof
        InferenceProof(SOFTWARE, model 'affine', task ...)

        :param model: its name.
        :param inputs: arrays by name. A numpy array must have the model's dtype; lists, numbers, texts, pandas
            ``Series`` and Pillow images take it, where it holds their values (for this the node is asked for the
            model's inputs first). A pandas ``DataFrame`` gives its columns to the inputs of their names, or all its
            rows to a model's one input; for such a model the array alone will do, too. The first dimension of all is
            the rows. Arrays may be non-contiguous or of foreign byte order; arrays of texts, bytes or objects that
            are either are BYTES.
        :param version: the version, or a label; by default the latest.
        :param outputs: names of the outputs wanted, in this order; by default all.
        :param timeout: seconds that this call may take; by default the client's.
        :param tenant: who asks; by default the client's.
        :param prove: whether the answer is to come with a proof, in ``proof``. That it is one of this call and this
            answer is checked in any case; whom to trust is a policy's to say.
        :param verify: asks for a proof and judges it on arrival: a :class:`grey.Policy`, or what :func:`grey.verify`
            takes as its policy.
        :param model_hash: the hash of the model's files that the proof must state: 32 bytes, hex, or ``SCHEME:HEX``.
        :param nonce: 8 to 64 bytes that the proof repeats; by default 32 random ones.
        :param salt: 32 bytes for the proof's hashes of inputs and outputs that could be guessed.
        :param parameters: what else the request says; see the Open Inference Protocol.
        :param request_id: comes back as ``id``.
        :raises InvalidArgument: inputs that are not the model's: names, dtypes, shapes.
        :raises NotFound: there is no such model or version.
        :raises DeadlineExceeded: the time passed.
        :raises Overloaded: the node is full, and was so after all retries.
        :raises Unavailable: the model is unloaded, or the node is ending.
        :raises ModelFailed: the model failed on these inputs.
        :raises ConnectFailed: there is no connection to the node.
        :raises ConnectionBroken: the connection ended in the middle.
        :raises NotANode: what answered is no Grey node.
        :raises BadAnswer: the answer lies about sizes, is not one to this call, or is too large.
        :raises ProofRejected: the proof is not valid by ``verify``; its ``verdict`` says why.
        :raises ProofInputError: a policy that cannot be read.
        """
        wanted = names("outputs", outputs) or None
        options = _options(tenant, prove, verify, model_hash, nonce, salt, parameters, request_id)
        result = None
        if type(inputs) is dict:
            result = self._native.infer(model, version, inputs, wanted, timeout, options)
        if result is None:
            left = TimeLeft(self._limit(timeout, "timeout"))
            inputs = _arrays.prepare(inputs, self._signature(model, version, left()))
            result = self._native.infer(model, version, inputs, wanted, left(), options)
        return result  # type: ignore[no-any-return]

    def _signature(self, model: str, version: str | None, timeout: float | None) -> list[TensorSpec]:
        known = self._known(model, version)
        if known is not None:
            return known
        return self._learn(model, version, self._native.manage("signature", model, version, timeout))

    def replay(
        self,
        proof: InferenceProof | bytes,
        inputs: Any,
        *,
        salt: bytes | None = None,
        timeout: float | None = None,
    ) -> Replay:
        """Have the node run a proof's request again, in the way that the proof states, and compare the bytes.

        For operators: a node that others can reach does so only where it is allowed. That a proof is genuine is for
        :func:`grey.verify` to say.

        >>> proven = client.infer("affine", {"x": x}, prove=True)
        >>> replay = client.replay(proven.proof, {"x": x})
        >>> replay.result
        'reproduced'

        :param proof: the proof, or its bundle.
        :param inputs: those of the proof's request, as in :meth:`infer`.
        :param salt: of the proof's request, if it had one.
        :param timeout: seconds that this call may take; by default the client's ``load_timeout``.
        :raises PermissionDenied: the node replays nothing.
        :raises InvalidArgument: the inputs are not the proof's, or its salt is missing.
        :raises NotFound: the node has not got the model.

        and what :meth:`infer` raises of connections and answers.
        """
        bundle, model, version = _replayed(proof)
        ended = None
        if type(inputs) is dict:
            ended = self._native.replay(bundle, inputs, salt, timeout)
        if ended is None:
            left = TimeLeft(self._limit(timeout, "load_timeout"))
            inputs = _arrays.prepare(inputs, self._signature(model, version, left()))
            ended = self._native.replay(bundle, inputs, salt, left())
        return _ended(ended)  # type: ignore[arg-type]

    def models(self, *, timeout: float | None = None) -> list[ModelStatus]:
        """All versions of all models, and what they do now.

        >>> client.models()[0]
        ModelStatus(id='affine', version='1', latest=True, state='ready', reason='', labels=('latest',))
        """
        return _models(self._native.manage("models", timeout=timeout))

    def model(self, model: str, *, version: str | None = None, timeout: float | None = None) -> Model:
        """All about one version, by default the latest.

        >>> client.model("affine").inputs
        (TensorSpec(name='x', datatype='FP32', shape=('N', 2)),)

        :raises NotFound: there is none.
        """
        return _model(self._native.manage("model", model, version, timeout))

    def node(self, *, timeout: float | None = None) -> NodeInfo:
        """The node itself: its version, whether it is ready, and how verifiers know it."""
        return NodeInfo.from_members(json.loads(self._native.manage("node", timeout=timeout)))

    def add(
        self,
        model: str,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        version: str | None = None,
        labels: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        example: Mapping[str, Any] | None = None,
        load: bool = True,
        timeout: float | None = None,
    ) -> Model:
        """Send a version of a model to the node's registry, and load it. Files are streamed, however large they are.

        The same bytes again change nothing.

        >>> client.add("mine", "model.onnx", metadata={"accuracy": 0.95}).state
        'ready'

        :param files: the model's file; a list of several, e.g. with weights beside it; or the folder that holds them.
        :param version: its name; by default the next integer.
        :param labels: names that mean this version from now on.
        :param metadata: whatever is to be remembered of it, as texts.
        :param example: arrays by name that the model takes, kept with it: where the node cannot make up inputs by
            itself, they show it whether rows may share runs.
        :param load: whether to load it, too.
        :param timeout: seconds that this call may take; by default the client's ``load_timeout``.
        :raises InvalidArgument: files that cannot be read, or are no model.
        :raises AlreadyExists: the version exists, with other bytes.
        :raises LoadFailed: the model cannot be opened.
        """
        return _model(self._native.add(*_addition(model, files, version, labels, metadata, example, load, timeout)))

    def load(self, model: str, *, version: str | None = None, timeout: float | None = None) -> Model:
        """Load a version, by default the latest, and wait until it is ready.

        :raises NotFound: there is none.
        :raises LoadFailed: it cannot be opened.
        """
        return _model(self._native.manage("load", model, version, timeout))

    def unload(self, model: str, *, version: str | None = None, timeout: float | None = None) -> None:
        """Unload a version, by default all: its process ends, and calls are refused until it is loaded.

        :raises NotFound: there is none.
        """
        self._native.manage("unload", model, version, timeout)

    def remove(self, model: str, *, version: str | None = None, timeout: float | None = None) -> list[str]:
        """Remove a version for good, by default all; returns which.

        :raises NotFound: there is none.
        """
        return list(json.loads(self._native.manage("remove", model, version, timeout)))

    def ready(self, model: str | None = None, *, version: str | None = None, timeout: float | None = None) -> bool:
        """Whether the node takes calls, or this model would answer without being loaded first.

        >>> client.ready("affine")
        True

        :raises NotFound: there is no such model.
        :raises ConnectFailed: there is no connection to the node.
        """
        return bool(json.loads(self._native.manage("ready", model, version, timeout)))


class AsyncClient(_Base):
    """:class:`Client`, with methods to ``await``: the same arguments, results and exceptions.

    >>> async def many(inputs):
    ...     async with grey.AsyncClient(url) as client:
    ...         return await asyncio.gather(*(client.infer("affine", {"x": x}) for x in inputs))
    >>> results = asyncio.run(many([np.full((1, 2), n, np.float32) for n in range(100)]))
    >>> float(results[99]["y"][0, 0])
    297.0

    A call whose task is cancelled hangs up, which the node sees; nothing else is disturbed. One client may be used in
    several event loops.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As :meth:`Client.close`."""
        self._native.close()

    async def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        tenant: str | None = None,
        prove: bool = False,
        verify: PolicyLike | None = None,
        model_hash: str | bytes | None = None,
        nonce: bytes | None = None,
        salt: bytes | None = None,
        parameters: Parameters | None = None,
        request_id: str = "",
    ) -> InferResult:
        """As :meth:`Client.infer`."""
        wanted = names("outputs", outputs) or None
        options = _options(tenant, prove, verify, model_hash, nonce, salt, parameters, request_id)
        started = None
        if type(inputs) is dict:
            started = self._native.infer_async(model, version, inputs, wanted, timeout, options)
        if started is None:
            left = TimeLeft(self._limit(timeout, "timeout"))
            inputs = _arrays.prepare(inputs, await self._signature(model, version, left()))
            started = self._native.infer_async(model, version, inputs, wanted, left(), options)
        # As `outcome` does, without another coroutine.
        future, call = started  # type: ignore[misc]
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def _signature(self, model: str, version: str | None, timeout: float | None) -> list[TensorSpec]:
        known = self._known(model, version)
        if known is not None:
            return known
        return self._learn(model, version, await self._manage("signature", model, version, timeout))

    async def _manage(
        self, verb: str, model: str | None = None, version: str | None = None, timeout: float | None = None
    ) -> str:
        return await outcome(self._native.manage_async(verb, model, version, timeout))  # type: ignore[no-any-return]

    async def replay(
        self,
        proof: InferenceProof | bytes,
        inputs: Any,
        *,
        salt: bytes | None = None,
        timeout: float | None = None,
    ) -> Replay:
        """As :meth:`Client.replay`."""
        bundle, model, version = _replayed(proof)
        started = None
        if type(inputs) is dict:
            started = self._native.replay_async(bundle, inputs, salt, timeout)
        if started is None:
            left = TimeLeft(self._limit(timeout, "load_timeout"))
            inputs = _arrays.prepare(inputs, await self._signature(model, version, left()))
            started = self._native.replay_async(bundle, inputs, salt, left())
        return _ended(await outcome(started))  # type: ignore[arg-type]

    async def models(self, *, timeout: float | None = None) -> list[ModelStatus]:
        """As :meth:`Client.models`."""
        return _models(await self._manage("models", timeout=timeout))

    async def model(self, model: str, *, version: str | None = None, timeout: float | None = None) -> Model:
        """As :meth:`Client.model`."""
        return _model(await self._manage("model", model, version, timeout))

    async def node(self, *, timeout: float | None = None) -> NodeInfo:
        """As :meth:`Client.node`."""
        return NodeInfo.from_members(json.loads(await self._manage("node", timeout=timeout)))

    async def add(
        self,
        model: str,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        version: str | None = None,
        labels: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        example: Mapping[str, Any] | None = None,
        load: bool = True,
        timeout: float | None = None,
    ) -> Model:
        """As :meth:`Client.add`."""
        adding = self._native.add_async(*_addition(model, files, version, labels, metadata, example, load, timeout))
        return _model(await outcome(adding))

    async def load(self, model: str, *, version: str | None = None, timeout: float | None = None) -> Model:
        """As :meth:`Client.load`."""
        return _model(await self._manage("load", model, version, timeout))

    async def unload(self, model: str, *, version: str | None = None, timeout: float | None = None) -> None:
        """As :meth:`Client.unload`."""
        await self._manage("unload", model, version, timeout)

    async def remove(self, model: str, *, version: str | None = None, timeout: float | None = None) -> list[str]:
        """As :meth:`Client.remove`."""
        return list(json.loads(await self._manage("remove", model, version, timeout)))

    async def ready(
        self, model: str | None = None, *, version: str | None = None, timeout: float | None = None
    ) -> bool:
        """As :meth:`Client.ready`."""
        return bool(json.loads(await self._manage("ready", model, version, timeout)))


def _addition(
    model: str,
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    version: str | None,
    labels: Sequence[str],
    metadata: Mapping[str, Any] | None,
    example: Mapping[str, Any] | None,
    load: bool,
    timeout: float | None,
) -> tuple[str, list[Path], str | None, list[str], dict[str, str], str | None, bool, float | None]:
    request = None if example is None else _arrays.request_json(example)
    return model, paths(files), version, names("labels", labels), texts(metadata), request, load, timeout


def replay(
    url: str,
    proof: InferenceProof | bytes,
    inputs: Any,
    *,
    salt: bytes | None = None,
    timeout: float = 900.0,
) -> Replay:
    """Have the node at ``url`` replay a proof: :meth:`Client.replay` without a client of one's own.

    >>> bool(grey.replay(url, proven.proof, {"x": x}))
    True
    """
    with Client(url) as client:
        return client.replay(proof, inputs, salt=salt, timeout=timeout)


def _options(
    tenant: str | None,
    prove: bool,
    verify: PolicyLike | None,
    model_hash: str | bytes | None,
    nonce: bytes | None,
    salt: bytes | None,
    parameters: Parameters | None,
    request_id: str,
) -> dict[str, Any] | None:
    """What was given of these."""
    if (nonce is not None or salt is not None) and not prove and verify is None:
        raise InvalidArgument("nonce and salt belong to a proof: give prove=True, or verify=Policy(...)")
    if model_hash is not None and verify is None:
        raise InvalidArgument("model_hash is compared with that of a proof: give verify=Policy(...), too")
    given: dict[str, Any] = {"tenant": tenant, "nonce": nonce, "salt": salt, "id": request_id or None}
    given["prove"] = True if prove else None
    given["verify"] = None if verify is None else _inputs.with_members("policy", _inputs.policy_text(verify))
    given["parameters"] = None if parameters is None else dict(parameters)
    if model_hash is not None:
        digest, scheme = _inputs.model_hash(model_hash)
        members = {"model_hash": digest, "model_hash_scheme": scheme}
        given["model_hash"] = json.dumps({name: value for name, value in members.items() if value is not None})
    return {name: value for name, value in given.items() if value is not None} or None


def _replayed(proof: InferenceProof | bytes) -> tuple[bytes, str, str | None]:
    """The bundle, and the model whose inputs it is about."""
    if isinstance(proof, bytes):
        proof = InferenceProof.from_bundle(proof)
    if not isinstance(proof, InferenceProof):
        raise InvalidArgument(f"proof: expected an InferenceProof or its bundle, found {type(proof).__name__}")
    return proof.proof, proof.model_id, proof.model_version or None


def _ended(ended: tuple[str, dict[str, Any]]) -> Replay:
    told, outputs = ended
    return Replay.from_members(json.loads(told), outputs)


def _model(answer: str) -> Model:
    return Model.from_members(json.loads(answer))


def _models(answer: str) -> list[ModelStatus]:
    return [ModelStatus.from_members(m) for m in json.loads(answer)]
