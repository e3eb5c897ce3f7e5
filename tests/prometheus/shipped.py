"""What is shipped for Prometheus and Grafana, as the tests use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "eventwagon.rules.yaml"
BOARD = ROOT / "deploy" / "grafana" / "eventwagon.json"

_FASTER = {
    r"for: \d+m\n": "for: 3s\n",
    r"look_age_seconds\) > 30\n": "look_age_seconds) > 5\n",
    r"drain_age_seconds\) > 3600\n": "drain_age_seconds) > 3\n",
    r"dead_letters\[15m\]": "dead_letters[20s]",
    r"sent_messages_total\[2m\]": "sent_messages_total[3s]",
}


def in_seconds() -> str:
    """The rules with times that a test can wait for."""
    text = RULES.read_text()
    for old, new in _FASTER.items():
        text, found = re.subn(old, new, text)
        assert found, f"the rules have no {old} any more"
    return text


def queries(*, train: str) -> Iterator[tuple[str, str]]:
    """The board's, as Grafana asks them for this train, each with the name of its panel."""
    for panel in json.loads(BOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$__rate_interval", "10s").replace("${train}", train)
            yield panel["title"], asked.replace("$train", train).replace("$namespace", ".*")
