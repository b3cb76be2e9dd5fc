"""A node inside this process: the server's engine without a port.

:class:`Node` has plain methods, :class:`AsyncNode` the same ones to ``await``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from grey import _arrays, _native
from grey._calls import TimeLeft, names, outcome, paths, texts
from grey.errors import InvalidArgument
from grey.results import InferResult, Model, ModelStatus, TensorSpec

__all__ = ["AsyncNode", "Node"]

Config = Mapping[str, Any] | str | os.PathLike[str]


class _Base:
    """What both forms are: a native node and the folder that it was given."""

    _native: _native.Node

    def __init__(self, data: str | os.PathLike[str] | None = None, *, config: Config | None = None) -> None:
        text = _config_text(config)
        temporary = Path(tempfile.mkdtemp(prefix="grey-"))
        try:
            given = None if data is None else Path(data)
            self._native = _native.Node(text, given, temporary, Path(sys.executable), Path(sys.prefix))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if not temporary.samefile(self._native.data):
            temporary.rmdir()
        # Hosts end with their node, also where nobody closes it.
        self._pid = os.getpid()
        self._end = weakref.finalize(self, _end, self._native, temporary, os.getpid())

    @property
    def data(self) -> Path:
        """The folder of the node's registry."""
        return self._native.data

    def metrics(self) -> str:
        """The node's metrics in OpenMetrics text form, as its ``/metrics`` would give them."""
        return self._native.metrics()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} lives in its process and cannot be copied or sent to another; open one there"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} data={str(self.data)!r}{'' if self._end.alive else ' closed'}>"


class Node(_Base):
    """A node inside this process.

    It serves what ``grey serve`` serves in the same way, with batching, hosts of their own for models, and proofs, but
    listens nowhere. Where a server would answer 503 because it is full, a call waits.

    >>> with grey.Node() as node:
    ...     model = node.add("digits", "digits.onnx")
    ...     result = node.infer("digits", {"pixels": pixels})
    >>> result["probabilities"].shape
    (1, 10)

    Methods may be called from any thread. They block, so in asyncio use :class:`AsyncNode`. In a child that the
    program forked they raise :class:`grey.Forked`; a new node can be opened there.

    :param data: the folder of the registry, which only one node at a time may use; by default a temporary one,
        which goes with the node, unless the configuration names one.
    :param config: as ``docs/configuration.md`` says: a mapping, or the path of a YAML file.
    :raises InvalidArgument: a configuration that cannot be; the text names key and place.
    :raises FailedPrecondition: a folder that another node uses.
    """

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self, timeout: float | None = None) -> None:
        """End the node: calls that were made before finish, later ones raise :class:`grey.Closed`.

        :param timeout: seconds after which calls that have not finished fail; by default the configuration's
            ``drain_seconds``.
        """
        self._native.close(timeout)
        self._end()

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
        nonce: bytes | None = None,
        salt: bytes | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
        request_id: str = "",
    ) -> InferResult:
        """Run a model.

        :param model: its name.
        :param inputs: arrays by name. A numpy array must have the model's dtype; lists, numbers, texts, pandas
            ``Series`` and Pillow images take it, where it holds their values. A pandas ``DataFrame`` gives its
            columns to the inputs of their names, or all its rows to a model's one input; for such a model the array
            alone will do, too. The first dimension of all is the rows.
        :param version: the version; by default the latest.
        :param outputs: names of the outputs wanted, in this order; by default all.
        :param timeout: seconds after which the call is given up, with :class:`grey.DeadlineExceeded`.
        :param tenant: who asks, for fairness and metrics; by default ``default``.
        :param prove: whether the answer is to come with a proof, in ``proof``.
        :param nonce: 8 to 64 bytes that the proof repeats.
        :param salt: 32 bytes for the hashes of inputs and outputs that could be guessed.
        :param parameters: what else the request says; see the Open Inference Protocol.
        :param request_id: comes back as ``id``.
        :raises InvalidArgument: inputs that are not the model's: names, dtypes, shapes.
        :raises NotFound: there is no such model or version.
        :raises DeadlineExceeded: the timeout passed.
        :raises ModelFailed: the model failed on these inputs.
        :raises Unavailable: the model is unloaded.
        :raises Closed: the node was closed.
        """
        wanted = names("outputs", outputs) or None
        options = _options(tenant, prove, nonce, salt, parameters, request_id)
        room, left, time_left = None, timeout, TimeLeft(timeout)
        while True:
            answer = None
            if type(inputs) is dict:
                answer = self._native.infer(model, version, inputs, wanted, left, options, room)
            if answer is None:
                inputs, left = _arrays.prepare(inputs, self._signature(model, version)), time_left()
            elif type(answer) is int:
                room = self._native.room(answer, left)
                left = time_left()
            else:
                return answer  # type: ignore[no-any-return]

    def _signature(self, model: str, version: str | None) -> list[TensorSpec]:
        return _inputs_of(self._native.manage("signature", model, version))

    def models(self) -> list[ModelStatus]:
        """All versions of all models, and what they do now."""
        return [ModelStatus.from_members(m) for m in json.loads(self._native.manage("models"))]

    def model(self, model: str, *, version: str | None = None) -> Model:
        """All about one version, by default the latest.

        :raises NotFound: there is none.
        """
        return Model.from_members(json.loads(self._native.manage("model", model, version)))

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
    ) -> Model:
        """Register a version of a model, and load it.

        The same bytes again change nothing.

        :param files: the model's file; a list of several, e.g. with weights beside it; or the folder that holds them.
        :param version: its name; by default the next integer.
        :param labels: names that mean this version from now on.
        :param metadata: whatever is to be remembered of it, as texts.
        :param example: arrays by name that the model takes, kept with it: where the node cannot make up inputs by
            itself, they show it whether rows may share runs.
        :param load: whether to load it, too.
        :raises InvalidArgument: files that are no model.
        :raises AlreadyExists: the version exists, with other bytes.
        """
        return _added(self._native.add(*_addition(model, files, version, labels, metadata, example, load)))

    def load(self, model: str, *, version: str | None = None) -> Model:
        """Load a version, by default the latest, and wait until it is ready."""
        return Model.from_members(json.loads(self._native.manage("load", model, version)))

    def unload(self, model: str, *, version: str | None = None) -> None:
        """Unload a version, by default all that are loaded: their processes end, and calls are refused until `load`."""
        self._native.manage("unload", model, version)

    def remove(self, model: str, *, version: str | None = None) -> list[str]:
        """Remove a version for good, by default all; returns which."""
        return list(json.loads(self._native.manage("remove", model, version)))

    def ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """Whether the node takes calls, or this model would answer without being loaded first."""
        return bool(json.loads(self._native.manage("ready", model, version)))

    def engines(self) -> list[dict[str, Any]]:
        """The runtimes that the node found, or why not, and how to install them."""
        return list(json.loads(self._native.manage("engines")))

    def identity(self) -> dict[str, Any]:
        """By which key and on what platform the node signs proofs."""
        return dict(json.loads(self._native.manage("identity")))


class AsyncNode(_Base):
    """:class:`Node`, with methods to ``await``: the same arguments, results and exceptions.

    >>> async with grey.AsyncNode() as node:
    ...     await node.add("digits", "digits.onnx")
    ...     results = await asyncio.gather(*(node.infer("digits", {"pixels": p}) for p in many))

    Calls that are made together run together. A call whose task is cancelled leaves its queue.
    """

    async def __aenter__(self) -> AsyncNode:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self, timeout: float | None = None) -> None:
        """As :meth:`Node.close`."""
        if not self._end.alive or self._pid != os.getpid():
            return
        await outcome(self._native.close_async(timeout))
        self._end()

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
        nonce: bytes | None = None,
        salt: bytes | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
        request_id: str = "",
    ) -> InferResult:
        """As :meth:`Node.infer`."""
        wanted = names("outputs", outputs) or None
        options = None
        given = (tenant, nonce, salt, parameters)
        if prove or request_id or any(value is not None for value in given):
            options = _options(tenant, prove, nonce, salt, parameters, request_id)
        room, left, time_left = None, timeout, TimeLeft(timeout)
        while True:
            started = None
            if type(inputs) is dict:
                started = self._native.infer_async(model, version, inputs, wanted, left, options, room)
            if started is None:
                inputs, left = _arrays.prepare(inputs, await self._signature(model, version)), time_left()
            elif type(started) is int:
                room = await outcome(self._native.room_async(started, left))
                left = time_left()
            else:
                break
        future, call = started
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def _signature(self, model: str, version: str | None) -> list[TensorSpec]:
        return _inputs_of(await self._manage("signature", model, version))

    async def _manage(self, verb: str, model: str | None = None, version: str | None = None) -> str:
        return await outcome(self._native.manage_async(verb, model, version))  # type: ignore[no-any-return]

    async def models(self) -> list[ModelStatus]:
        """As :meth:`Node.models`."""
        return [ModelStatus.from_members(m) for m in json.loads(await self._manage("models"))]

    async def model(self, model: str, *, version: str | None = None) -> Model:
        """As :meth:`Node.model`."""
        return Model.from_members(json.loads(await self._manage("model", model, version)))

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
    ) -> Model:
        """As :meth:`Node.add`."""
        adding = self._native.add_async(*_addition(model, files, version, labels, metadata, example, load))
        return _added(await outcome(adding))

    async def load(self, model: str, *, version: str | None = None) -> Model:
        """As :meth:`Node.load`."""
        return Model.from_members(json.loads(await self._manage("load", model, version)))

    async def unload(self, model: str, *, version: str | None = None) -> None:
        """As :meth:`Node.unload`."""
        await self._manage("unload", model, version)

    async def remove(self, model: str, *, version: str | None = None) -> list[str]:
        """As :meth:`Node.remove`."""
        return list(json.loads(await self._manage("remove", model, version)))

    async def ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """As :meth:`Node.ready`."""
        return bool(json.loads(await self._manage("ready", model, version)))

    async def engines(self) -> list[dict[str, Any]]:
        """As :meth:`Node.engines`."""
        return list(json.loads(await self._manage("engines")))

    async def identity(self) -> dict[str, Any]:
        """As :meth:`Node.identity`."""
        return dict(json.loads(await self._manage("identity")))


def _end(native: _native.Node, temporary: Path, pid: int) -> None:
    if os.getpid() != pid:
        # A forked child: node and folder are the parent's.
        return
    native.close(0)
    # Gone already where another folder was named.
    shutil.rmtree(temporary, ignore_errors=True)


def _options(
    tenant: str | None,
    prove: bool,
    nonce: bytes | None,
    salt: bytes | None,
    parameters: Mapping[str, Any] | None,
    request_id: str,
) -> dict[str, Any] | None:
    """What was given of these."""
    if (nonce is not None or salt is not None) and not prove:
        raise InvalidArgument("nonce and salt belong to a proof: give prove=True")
    given: dict[str, Any] = {"tenant": tenant, "nonce": nonce, "salt": salt, "id": request_id or None}
    given["prove"] = True if prove else None
    given["parameters"] = None if parameters is None else dict(parameters)
    return {name: value for name, value in given.items() if value is not None} or None


def _inputs_of(signature: str) -> list[TensorSpec]:
    return [TensorSpec.from_members(m) for m in json.loads(signature)["inputs"]]


def _added(answer: str) -> Model:
    return Model.from_members(json.loads(answer))


def _addition(
    model: str,
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    version: str | None,
    labels: Sequence[str],
    metadata: Mapping[str, Any] | None,
    example: Mapping[str, Any] | None,
    load: bool,
) -> tuple[str, list[Path], str | None, list[str], dict[str, str], dict[str, Any] | None, bool]:
    plain = None if example is None else _arrays.prepare(example, ())
    return model, paths(files), version, names("labels", labels), texts(metadata), plain, load


def _config_text(config: Config | None) -> str:
    if config is None:
        return ""
    if isinstance(config, Mapping):
        try:
            return json.dumps(dict(config), allow_nan=False)
        except (TypeError, ValueError) as e:
            raise InvalidArgument(f"configuration: expected values that YAML has, found {e}") from e
    try:
        return Path(config).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidArgument(f"configuration: cannot read {os.fspath(config)}: {e}") from e
