"""Grey: a model server that batches requests and isolates models.

The package holds the ``grey`` command (``python -m grey``); ``grey serve --help`` is the place to start.
:class:`Client` talks to a node, :class:`Node` is one inside this process, and :func:`verify` judges a proof of
inference without any node.
"""

from typing import TYPE_CHECKING, Any

from grey._native import ProofInputError, __version__

# Names of this package by the module that they are in. Engine hosts import the package too, one process per
# model: they load nothing of it before it is asked for.
_HOMES = {
    "grey.client": ("AsyncClient", "Client", "replay"),
    "grey.errors": (
        "AlreadyExists",
        "BadAnswer",
        "Cancelled",
        "Closed",
        "ConnectFailed",
        "ConnectionBroken",
        "DeadlineExceeded",
        "Error",
        "FailedPrecondition",
        "Forked",
        "HostDied",
        "Internal",
        "InvalidArgument",
        "LoadFailed",
        "ModelFailed",
        "NotANode",
        "NotFound",
        "Overloaded",
        "PermissionDenied",
        "ProofRejected",
        "QuotaExceeded",
        "TooLarge",
        "Unavailable",
        "Unsupported",
        "UnsupportedMedia",
    ),
    "grey.node": ("AsyncNode", "Node"),
    "grey.policy": ("MinTcb", "Policy", "Roots"),
    "grey.proofs": ("Check", "InferenceProof", "Verdict", "bundle", "verify", "verify_session"),
    "grey.results": ("InferResult", "Model", "ModelStatus", "NodeInfo", "Replay", "TensorSpec"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncNode",
    "BadAnswer",
    "Cancelled",
    "Check",
    "Client",
    "Closed",
    "ConnectFailed",
    "ConnectionBroken",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "Forked",
    "HostDied",
    "InferResult",
    "InferenceProof",
    "Internal",
    "InvalidArgument",
    "LoadFailed",
    "MinTcb",
    "Model",
    "ModelFailed",
    "ModelStatus",
    "Node",
    "NodeInfo",
    "NotANode",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Policy",
    "ProofInputError",
    "ProofRejected",
    "QuotaExceeded",
    "Replay",
    "Roots",
    "TensorSpec",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "UnsupportedMedia",
    "Verdict",
    "__version__",
    "bundle",
    "replay",
    "verify",
    "verify_session",
]

if TYPE_CHECKING:
    from grey.client import AsyncClient, Client, replay
    from grey.errors import (
        AlreadyExists,
        BadAnswer,
        Cancelled,
        Closed,
        ConnectFailed,
        ConnectionBroken,
        DeadlineExceeded,
        Error,
        FailedPrecondition,
        Forked,
        HostDied,
        Internal,
        InvalidArgument,
        LoadFailed,
        ModelFailed,
        NotANode,
        NotFound,
        Overloaded,
        PermissionDenied,
        ProofRejected,
        QuotaExceeded,
        TooLarge,
        Unavailable,
        Unsupported,
        UnsupportedMedia,
    )
    from grey.node import AsyncNode, Node
    from grey.policy import MinTcb, Policy, Roots
    from grey.proofs import Check, InferenceProof, Verdict, bundle, verify, verify_session
    from grey.results import InferResult, Model, ModelStatus, NodeInfo, Replay, TensorSpec
else:

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'grey' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(set(globals()) | set(__all__))
