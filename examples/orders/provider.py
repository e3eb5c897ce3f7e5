"""Stands for the payment provider: an HTTP server that keeps charges and refunds, and can be told to fail.

python -m examples.orders.provider --port 8090
curl -X PUT http://127.0.0.1:8090/down      # from now on it answers 503; PUT /up ends that
curl http://127.0.0.1:8090/totals
"""

import argparse
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Provider(ThreadingHTTPServer):
    """Each key is charged once and refunded once, however often it is asked for."""

    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.lock = threading.Lock()
        self.charges: dict[str, int] = {}
        self.refunds: dict[str, int] = {}
        self.is_down = False
        self.refused = 0

    def put(self, path: str, body: bytes) -> int:
        """The status of the answer."""
        what, _, key = path.strip("/").partition("/")
        with self.lock:
            if what in ("down", "up"):
                self.is_down = what == "down"
            elif self.is_down:
                self.refused += 1
                return 503
            elif what == "charges" and key:
                self.charges.setdefault(key, int(json.loads(body)["cents"]))
            elif what == "refunds" and key in self.charges:
                self.refunds[key] = self.charges[key]
            else:
                return 404
        return 200

    def totals(self) -> dict[str, int]:
        """In cents; and how many."""
        with self.lock:
            return {
                "charged": sum(self.charges.values()),
                "charges": len(self.charges),
                "refunded": sum(self.refunds.values()),
                "refunds": len(self.refunds),
                "refused": self.refused,
            }


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Provider

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length)) if re.fullmatch(r"[0-9]{1,6}", length) else b""
        try:
            status = self.server.put(self.path, body)
        except (ValueError, TypeError, KeyError):
            status = 400
        self._answer(status, b"")

    def do_GET(self) -> None:
        self._answer(200, json.dumps(self.server.totals()).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8090)
    port = parser.parse_args().port
    try:
        with Provider(port) as server:
            server.serve_forever()
    except (OSError, OverflowError) as e:
        sys.exit(f"port {port}: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
