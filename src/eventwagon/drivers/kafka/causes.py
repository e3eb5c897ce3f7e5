"""Why no server answers. A failed call of librdkafka says only that it timed out; its log has the reason."""

from __future__ import annotations

import math
import re
import time

from .options import CLIENT_LOGGER, LOGGER

_REASONS = (
    (r"Failed to resolve '?([^' ]+)", "the host {0} is unknown: check the host in the URL and the name server"),
    (r"Connect to .*Connection refused", "no server listens there: check host and port"),
    (
        r"certificate verify failed|self.signed certificate|unable to get local issuer",
        "the server's certificate is not trusted: set ssl.ca.location to the file of its authority",
    ),
    (r"(?:hostname|IP address) mismatch", "the server's certificate is for another host: use the name that it is for"),
    (
        r"mechanism handshake failed.*supported mechanisms: ?([\w, -]*\w)",
        "the server does not know this sasl.mechanism; it has {0}",
    ),
    (
        r"mechanism handshake failed|SASL .*error|authentication failed|Authentication failed|OAUTHBEARER",
        "the login was refused: check sasl.mechanism, sasl.username and sasl.password (or the token)",
    ),
    (
        r"PLAINTEXT broker listener|wrong version number|packet length too long",
        "we speak TLS and the server seems not to: check the port, or leave TLS out of security.protocol",
    ),
    (r"SSL handshake failed", "the TLS handshake failed: check the port, ssl.ca.location and ssl.certificate.location"),
    (
        r"connecting to a SSL listener|Invalid response size 35\d{7}",
        "the server seems to speak TLS and we don't: check the port, or set security.protocol=SSL or SASL_SSL",
    ),
    (
        r"Invalid response size|Protocol parse failure|Unexpected ApiVersion",
        "the server there does not speak Kafka: "
        "check the port (or, if the server speaks TLS, set security.protocol=SSL or SASL_SSL)",
    ),
    (
        r"closed by peer|reset by peer|Broken pipe|SASL_PLAINTEXT listener",
        "the server ends the connection at once: check the port; "
        "it may want TLS or a login (security.protocol=SSL, SASL_SSL or SASL_PLAINTEXT)",
    ),
    (r"[Tt]imed out|timeout", "it does not answer: check host, port and firewall"),
)
_FORMS = [(re.compile(form), said) for form, said in _REASONS]
_SINCE = re.compile(r" ?\(after \d+ms in state (\w+)(?:[^()]|\([^()]*\))*\)")
_BROKER = re.compile(r"(?:\w+://)?(\[?[^\s/]+\]?:\d+)/")
_NO_FILES = "this process has no file descriptor left for connections to Kafka: raise `ulimit -n` and start it again"
_TOLD_AGAIN = 60.0  # s between two warnings that there is no descriptor
_FRESH = 10.0  # the least time, in s, for which a reason explains failures


class Causes:
    """Acts as the logger of one driver's clients: passes all records on, and remembers the last failure."""

    def __init__(self) -> None:
        self._last: tuple[float, str] | None = None
        self._told = -math.inf

    def log(self, level: int, form: str, facility: str, name: str, text: str) -> None:
        """A record of librdkafka's log; any thread may call this."""
        if facility == "FAIL":
            now = time.monotonic()
            self._last = now, text
            if _lacks_files(text) and now >= self._told + _TOLD_AGAIN:
                self._told = now
                LOGGER.warning("%s; a client that begins without one may stay slow", _NO_FILES)
        CLIENT_LOGGER.log(level, form, facility, name, text)

    def why(self, servers: str, seconds: float) -> str:
        """The cause of connection failures in the last `seconds`, and what to do; empty if none is known."""
        last = self._last
        if last is None or time.monotonic() - last[0] > max(_FRESH, 2 * seconds):
            return ""
        if _lacks_files(last[1]):
            return _NO_FILES
        text = last[1].partition("]: ")[2] or last[1]
        where = found[1] if (found := _BROKER.match(text)) else servers
        advice = next((said.format(*m.groups()) for form, said in _FORMS if (m := form.search(text))), "")
        if advice and where not in servers.split(","):
            advice += f" (the cluster itself names {where}: see its advertised.listeners)"
        text = _SINCE.sub("", text).partition("/bootstrap: ")[2] or text
        return f"{where}: {advice}: {text}" if advice else f"{where}: {text}"


def _lacks_files(text: str) -> bool:
    return "Too many open files" in text
