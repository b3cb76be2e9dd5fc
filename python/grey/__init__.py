"""Grey: a model server that batches requests and isolates models.

The package holds the ``grey`` command (``python -m grey``); ``grey serve --help`` is the place to start.
"""

from grey._native import __version__

__all__ = ["__version__"]
