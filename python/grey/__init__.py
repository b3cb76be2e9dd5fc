"""Grey: a model server that batches requests and isolates models.

The package holds the ``grey`` command (``python -m grey``); ``grey serve --help`` is the place to start.
:class:`Node` is a node inside this process. :func:`verify` judges a proof of inference, without a node and without a
network.
"""

from typing import TYPE_CHECKING, Any

from grey._native import ProofInputError, __version__

# Names of this package by the module that they are in. Engine hosts import the package too, one process per
# model: they load nothing of it before it is asked for.
_HOMES = {
    "grey.errors": (
        "AlreadyExists",
        "Cancelled",
        "DeadlineExceeded",
        "Error",
        "FailedPrecondition",
        "Forked",
        "HostDied",
        "Internal",
        "InvalidArgument",
        "LoadFailed",
        "ModelFailed",
        "NotFound",
        "Overloaded",
        "PermissionDenied",
        "QuotaExceeded",
        "TooLarge",
        "Unavailable",
        "Unsupported",
        "UnsupportedMedia",
    ),
    "grey.node": ("AsyncNode", "Node"),
    "grey.proofs": ("Check", "InferenceProof", "Verdict", "bundle", "verify", "verify_session"),
    "grey.results": ("InferResult", "Model", "ModelStatus", "TensorSpec"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExists",
    "AsyncNode",
    "Cancelled",
    "Check",
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
    "Model",
    "ModelFailed",
    "ModelStatus",
    "Node",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "ProofInputError",
    "QuotaExceeded",
    "TensorSpec",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "UnsupportedMedia",
    "Verdict",
    "__version__",
    "bundle",
    "verify",
    "verify_session",
]

if TYPE_CHECKING:
    from grey.errors import (
        AlreadyExists,
        Cancelled,
        DeadlineExceeded,
        Error,
        FailedPrecondition,
        Forked,
        HostDied,
        Internal,
        InvalidArgument,
        LoadFailed,
        ModelFailed,
        NotFound,
        Overloaded,
        PermissionDenied,
        QuotaExceeded,
        TooLarge,
        Unavailable,
        Unsupported,
        UnsupportedMedia,
    )
    from grey.node import AsyncNode, Node
    from grey.proofs import Check, InferenceProof, Verdict, bundle, verify, verify_session
    from grey.results import InferResult, Model, ModelStatus, TensorSpec
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
