"""The exceptions of Grey: one class per kind of error, whether a node in this process or one far away raised it.

All are :class:`Error`. Some are a built-in exception as well, so that ``except TimeoutError`` does what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from grey.proofs import InferenceProof
    from grey.verdict import Verdict

__all__ = [
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
]


class Error(Exception):
    """What every exception of Grey is.

    :ivar message: what was wrong, what was expected, and where.
    :ivar retry_after: seconds after which the same call may succeed, if that is known.
    """

    kind: ClassVar[str] = "error"
    """A stable word, as in the server's metrics and in ``--json``."""
    retryable: ClassVar[bool] = False
    """Whether the same call, made again later, may succeed without any change."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message, self.retry_after))


class InvalidArgument(Error, ValueError):
    """The call itself is wrong and will be wrong again: a name, a shape, a dtype (HTTP 400)."""

    kind = "invalid_argument"


class NotFound(Error, LookupError):
    """There is no such model or version (HTTP 404)."""

    kind = "not_found"


class AlreadyExists(Error):
    """Another thing has this name (HTTP 409)."""

    kind = "already_exists"


class FailedPrecondition(Error):
    """The state of node or model does not allow it (HTTP 409)."""

    kind = "failed_precondition"


class PermissionDenied(Error):
    """Not allowed for this caller (HTTP 403)."""

    kind = "permission_denied"


class TooLarge(Error, ValueError):
    """A tensor, or all of them, exceed a limit (HTTP 413)."""

    kind = "too_large"


class QuotaExceeded(Error):
    """A quota of the caller is spent (HTTP 429)."""

    kind = "quota_exceeded"
    retryable = True


class UnsupportedMedia(Error):
    """A content type or encoding that the node does not understand (HTTP 415)."""

    kind = "unsupported_media"


class Overloaded(Error):
    """The node is full (HTTP 503)."""

    kind = "overloaded"
    retryable = True


class Unavailable(Error):
    """The model is not ready, or the node is ending (HTTP 503)."""

    kind = "unavailable"
    retryable = True


class HostDied(Error):
    """The process that ran the model died, and the call was not run again (HTTP 503)."""

    kind = "host_died"
    retryable = True


class DeadlineExceeded(Error, TimeoutError):
    """The call's own timeout passed (HTTP 504)."""

    kind = "deadline_exceeded"


class Cancelled(Error):
    """The caller gave the call up (HTTP 499)."""

    kind = "cancelled"


class ModelFailed(Error):
    """The model failed on these inputs (HTTP 500). It stays ready for others."""

    kind = "model_failed"


class LoadFailed(Error):
    """The model cannot be opened: a damaged file, a runtime that is missing (HTTP 500)."""

    kind = "load_failed"


class Unsupported(Error, NotImplementedError):
    """A feature that the node has not (HTTP 501)."""

    kind = "unsupported"


class Internal(Error):
    """A bug or an I/O failure (HTTP 500)."""

    kind = "internal"


class Forked(Error, RuntimeError):
    """A node or client was used in a child that the program forked: its threads stayed in the parent."""

    kind = "forked"


class ConnectFailed(Error, ConnectionError):
    """There is no connection to the node: nobody listens there, no such host, no answer in time. Nothing was sent."""

    kind = "connect_failed"
    retryable = True


class ConnectionBroken(Error, ConnectionError):
    """The connection ended in the middle of the request or of the answer. Whether the node did it is not known."""

    kind = "connection_broken"
    retryable = True


class NotANode(Error):
    """What answered is no Grey node: no HTTP, or other pages than a node has."""

    kind = "not_a_node"


class BadAnswer(Error):
    """The answer lies about sizes, is not one to this request, cannot be read, or is too large."""

    kind = "bad_answer"


class Closed(Error, RuntimeError):
    """The client or the node was closed."""

    kind = "closed"


_NO_VERDICT = '{"overall": "not valid", "checks": []}'


class ProofRejected(Error):
    """The proof of an answer is not valid by the policy that was asked for, so the answer is withheld.

    :ivar verdict: every check, and what was found.
    :ivar proof: the proof, to be looked at.
    """

    kind = "proof_rejected"

    def __init__(
        self, message: str, retry_after: float | None = None, verdict: str = _NO_VERDICT, proof: bytes = b""
    ) -> None:
        """
        :param verdict: in JSON.
        :param proof: the proof's bundle.
        """
        super().__init__(message, retry_after)
        self._verdict = verdict
        self._proof = proof

    @property
    def verdict(self) -> Verdict:
        from grey.verdict import Verdict

        return Verdict.from_json(self._verdict)

    @property
    def proof(self) -> InferenceProof:
        from grey.proofs import InferenceProof

        return InferenceProof.from_bundle(self._proof)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message, self.retry_after, self._verdict, self._proof))


BY_KIND: dict[str, type[Error]] = {
    c.kind: c
    for c in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        PermissionDenied,
        TooLarge,
        QuotaExceeded,
        UnsupportedMedia,
        Overloaded,
        Unavailable,
        HostDied,
        DeadlineExceeded,
        Cancelled,
        ModelFailed,
        LoadFailed,
        Unsupported,
        Internal,
        Forked,
        ConnectFailed,
        ConnectionBroken,
        NotANode,
        BadAnswer,
        Closed,
        ProofRejected,
    )
}
