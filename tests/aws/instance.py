"""One instance of a Lambda function, as a process: a request a line in, an answer a line out. The train is its first
argument."""

from __future__ import annotations

import json
import os
import sys
import time

from eventwagon.orchestrators import aws


class Clock:
    """What Lambda hands to a function besides the batch."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._until - time.monotonic()) * 1000))


def main(target: str) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what handlers print is no answer
    function = aws.handler(target)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, object] = {"answer": function(request["event"], Clock(request["seconds"]))}
        except Exception as e:  # noqa: BLE001 - what Lambda calls a function error
            answer = {"error": f"{type(e).__name__}: {e}"}
        out.write(json.dumps(answer) + "\n")
    function.close()


if __name__ == "__main__":
    main(sys.argv[1])
