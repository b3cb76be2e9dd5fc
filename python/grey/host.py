"""An engine host: started by a node as ``python -m grey.host``, with its control socket as standard input."""

import sys

from grey._native import engine_host

if __name__ == "__main__":
    sys.exit(engine_host())
