"""The native part of ``grey``; private."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

__all__ = [
    "ERROR_KINDS",
    "Call",
    "Client",
    "Node",
    "ProofInputError",
    "Room",
    "__version__",
    "bundle",
    "engine_host",
    "main",
    "policy_from_yaml",
    "verify",
    "verify_session",
    "view",
]

__version__: str

ERROR_KINDS: list[str]
"""Words of all kinds of errors that the core knows."""

@final
class Call:
    """A call that is under way for an event loop."""

    def cancel(self) -> None:
        """Give the call up: what waits in a queue leaves it, the result of what runs is dropped."""

@final
class Client:
    """A client of a node. Methods ``…_async`` belong into the thread of a running event loop; they return an asyncio
    future and its :class:`Call`. All raise the exceptions of ``grey.errors``, ``Forked`` among them. Times are in
    seconds, infinite ones for none; a call's time is by default the client's.
    """

    def __new__(
        cls,
        url: str,
        tenant: str | None,
        timeout: float,
        load_timeout: float,
        connect_timeout: float,
        retries: int,
        connections: int,
        answer_bytes: int,
    ) -> Client:
        """A client that connects when it is first needed."""

    def infer(
        self,
        model: str,
        version: str | None,
        inputs: dict[str, Any],
        outputs: list[str] | None,
        timeout: float | None,
        options: dict[str, Any] | None,
    ) -> Any:
        """Run a model.

        :param inputs: plain arrays by name, as ``grey._arrays`` calls them.
        :param options: what was given of ``tenant``, ``id``, ``parameters``, ``prove``, ``nonce``, ``salt``, ``verify``
            (a policy in JSON) and ``model_hash`` (known values in JSON).
        :returns: a ``grey.InferResult``; ``None`` if an input is not plain.
        """

    def infer_async(
        self,
        model: str,
        version: str | None,
        inputs: dict[str, Any],
        outputs: list[str] | None,
        timeout: float | None,
        options: dict[str, Any] | None,
    ) -> tuple[asyncio.Future[Any], Call] | None:
        """As :meth:`infer`."""

    def replay(
        self, proof: bytes, inputs: dict[str, Any], salt: bytes | None, timeout: float | None
    ) -> tuple[str, dict[str, Any]] | None:
        """Run a proof's request again.

        :returns: how that ended, in JSON, and the outputs by name; ``None`` if an input is not plain.
        """

    def replay_async(
        self, proof: bytes, inputs: dict[str, Any], salt: bytes | None, timeout: float | None
    ) -> tuple[asyncio.Future[tuple[str, dict[str, Any]]], Call] | None:
        """As :meth:`replay`."""

    def manage(
        self, verb: str, model: str | None = None, version: str | None = None, timeout: float | None = None
    ) -> str:
        """Ask or tell the node about its models and itself.

        :param verb: ``models``, ``node``, ``model``, ``signature``, ``ready``, ``load``, ``unload`` or ``remove``.
        :returns: the answer in JSON.
        """

    def manage_async(
        self, verb: str, model: str | None = None, version: str | None = None, timeout: float | None = None
    ) -> tuple[asyncio.Future[str], Call]:
        """As :meth:`manage`."""

    def add(
        self,
        model: str,
        files: list[Path],
        version: str | None,
        labels: list[str],
        metadata: Mapping[str, str],
        example: str | None,
        load: bool,
        timeout: float | None,
    ) -> str:
        """Register a model's file, and load it if ``load``; the answer is JSON."""

    def add_async(
        self,
        model: str,
        files: list[Path],
        version: str | None,
        labels: list[str],
        metadata: Mapping[str, str],
        example: str | None,
        load: bool,
        timeout: float | None,
    ) -> tuple[asyncio.Future[str], Call]:
        """As :meth:`add`."""

    def close(self) -> None:
        """Close all connections; calls that are under way fail. Does nothing in a forked child."""

@final
class Room:
    """Room in a node's budget of bytes, for one call."""

@final
class Node:
    """A node inside this process. Methods ``…_async`` belong into the thread of a running event loop; they return
    an asyncio future and its :class:`Call`. All raise the exceptions of ``grey.errors``, ``Forked`` among them.
    """

    def __new__(cls, config: str, data: Path | None, temporary: Path, executable: Path, prefix: Path) -> Node:
        """Start a node.

        :param config: the configuration in YAML.
        :param data: the folder of its registry; by default the one that the configuration names.
        :param temporary: the folder where neither is given.
        :param executable: the Python that becomes an engine host by ``-m grey.host``.
        :param prefix: ``sys.prefix``, where runtimes are looked for first.
        """

    @property
    def data(self) -> Path:
        """The folder of the registry."""

    def room(self, size: int, timeout: float | None) -> Room:
        """Wait until the node's budget has room for so many bytes of inputs."""

    def room_async(self, size: int, timeout: float | None) -> tuple[asyncio.Future[Room], Call]:
        """As :meth:`room`."""

    def infer(
        self,
        model: str,
        version: str | None,
        inputs: dict[str, Any],
        outputs: list[str] | None,
        timeout: float | None,
        options: dict[str, Any] | None,
        room: Room | None,
    ) -> Any:
        """Run a model.

        :param inputs: plain arrays by name, as ``grey._arrays`` calls them.
        :param timeout: seconds.
        :param options: what was given of ``tenant``, ``id``, ``parameters``, ``prove``, ``nonce``, ``salt``.
        :param room: room for the inputs; by default it is taken, if there is any and nobody waits for it.
        :returns: a ``grey.InferResult``; ``None`` if an input is not plain; the size of the inputs if there is no
            room for them.
        """

    def infer_async(
        self,
        model: str,
        version: str | None,
        inputs: dict[str, Any],
        outputs: list[str] | None,
        timeout: float | None,
        options: dict[str, Any] | None,
        room: Room | None,
    ) -> Any:
        """As :meth:`infer`, with a future and its call instead of the result."""

    def manage(self, verb: str, model: str | None = None, version: str | None = None) -> str:
        """Ask or tell the node about its models.

        :param verb: ``models``, ``engines``, ``identity``, ``model``, ``signature``, ``ready``, ``load``, ``unload`` or
            ``remove``.
        :returns: the answer in JSON.
        """

    def manage_async(
        self, verb: str, model: str | None = None, version: str | None = None
    ) -> tuple[asyncio.Future[str], Call]:
        """As :meth:`manage`."""

    def add(
        self,
        model: str,
        files: list[Path],
        version: str | None,
        labels: list[str],
        metadata: Mapping[str, str],
        example: dict[str, Any] | None,
        load: bool,
    ) -> str:
        """Register the files of a model, and load it if ``load``; the answer is JSON."""

    def add_async(
        self,
        model: str,
        files: list[Path],
        version: str | None,
        labels: list[str],
        metadata: Mapping[str, str],
        example: dict[str, Any] | None,
        load: bool,
    ) -> tuple[asyncio.Future[str], Call]:
        """As :meth:`add`."""

    def metrics(self) -> str:
        """The metrics in OpenMetrics text form."""

    def close(self, timeout: float | None = None) -> None:
        """Let accepted calls finish for at most ``timeout`` seconds, fail the rest, end all hosts. Does nothing in a
        forked child.
        """

    def close_async(self, timeout: float | None = None) -> tuple[asyncio.Future[None], Call]:
        """As :meth:`close`."""

def main(args: list[str], executable: Path, prefix: Path) -> int:
    """Run the ``grey`` command line and return its exit code.

    :param args: the command line, the program's name first.
    :param executable: the Python that becomes an engine host by ``-m grey.host``.
    :param prefix: ``sys.prefix``, where runtimes are looked for first.
    """

def engine_host() -> int:
    """Become an engine host and return its exit code once its node lets it go."""

class ProofInputError(ValueError):
    """A policy, known values or a proof that cannot be read; the text names the member."""

def verify(bundle: bytes, policy: str, now: int, known: str) -> str:
    """Judge a bundle, and return the verdict in JSON. The GIL is released meanwhile.

    :param policy: a policy in JSON, as in ``docs/proof-format.md``.
    :param now: Unix seconds, 0 to 2^64-1.
    :param known: what the caller knows, in JSON.
    :raises ProofInputError: policy or known values that are not what they should be. A bundle that cannot
        be read is no error: it is not valid.
    """

def verify_session(bundle: bytes, policy: str, now: int, known: str) -> str:
    """Judge a session's bundle; otherwise like :func:`verify`."""

def view(bundle: bytes) -> str:
    """The JSON view of a bundle, its member ``proof`` included.

    :raises ProofInputError: the bundle is not well formed; the text says where.
    """

def bundle(proof: bytes, session: bytes) -> bytes:
    """A proof and its session's bundle as one bundle.

    :raises ProofInputError: one of them is not well formed; the text says where.
    """

def policy_from_yaml(text: str) -> str:
    """A policy's YAML as JSON. Its members are for :func:`verify` to judge.

    :raises ProofInputError: no YAML, or a member twice; the text says in which line.
    """
