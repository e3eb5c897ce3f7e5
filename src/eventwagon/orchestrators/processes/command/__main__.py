"""A unit's supervisor: `python -m eventwagon.orchestrators.processes.command TRAIN UNIT DIRECTORY`. Started by
Command."""

from __future__ import annotations

import sys

from .supervisor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
