"""The native part of ``grey``; private."""

from pathlib import Path

__version__: str

def main(args: list[str], executable: Path, prefix: Path) -> int:
    """Run the ``grey`` command line and return its exit code.

    :param args: the command line, the program's name first.
    :param executable: the Python that becomes an engine host by ``-m grey.host``.
    :param prefix: ``sys.prefix``, where runtimes are looked for first.
    """

def engine_host() -> int:
    """Become an engine host and return its exit code once its node lets it go."""
