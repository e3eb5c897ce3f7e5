"""A wagon's process: `python -m eventwagon.orchestrators.processes.subprocess TARGET TRAIN NUMBER DIRECTORY`. Started
by Subprocess."""

from __future__ import annotations

import sys

from .child import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
