"""The native part of ``grey``; private."""

from pathlib import Path

__all__ = [
    "ProofInputError",
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
