"""The ``grey`` command."""

import signal
import sys
from pathlib import Path

from grey._native import main as native_main


def main() -> int:
    """Run the command line and return its exit code."""
    # Python's own handler only sets a flag, which nobody reads while Rust runs.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return native_main(["grey", *sys.argv[1:]], Path(sys.executable), Path(sys.prefix))


if __name__ == "__main__":
    sys.exit(main())
