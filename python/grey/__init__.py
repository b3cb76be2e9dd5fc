"""Grey: a model server that batches requests and isolates models.

The package holds the ``grey`` command (``python -m grey``); ``grey serve --help`` is the place to start.
:func:`verify` judges a proof of inference, without a node and without a network.
"""

from typing import TYPE_CHECKING, Any

from grey._native import ProofInputError, __version__

__all__ = [
    "Check",
    "InferenceProof",
    "ProofInputError",
    "Verdict",
    "__version__",
    "bundle",
    "verify",
    "verify_session",
]

if TYPE_CHECKING:
    from grey.proofs import Check, InferenceProof, Verdict, bundle, verify, verify_session
else:

    def __getattr__(name: str) -> Any:
        # Engine hosts import this package too, one process per model: they load nothing of proofs.
        if name not in __all__:
            raise AttributeError(f"module 'grey' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module("grey.proofs"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(set(globals()) | set(__all__))
