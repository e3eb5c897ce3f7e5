"""The rules and the board, without a running Prometheus: promtool takes them, they name what exists, and each alert has
its page."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventwagon.metrics import INSTRUMENTS
from eventwagon.metrics.instruments import LABELS, prometheus_name
from tests.prometheus.shipped import BOARD, ROOT, RULES, queries
from tests.servers.install import prometheus

HERE = Path(__file__).parent
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
NAMES = {
    each.in_prometheus + suffix
    for each in INSTRUMENTS
    for suffix in (("_bucket", "_count", "_sum") if each.kind == "histogram" else ("",))
}
KNOWN = {*map(prometheus_name, LABELS), "namespace", "le"}
"""Labels: ours, Prometheus's own of targets in Kubernetes, and that of buckets."""


def promtool(*arguments: str | Path) -> str:
    command = [str(prometheus() / "promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    assert "9 rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_and_resolves_and_not_in_the_healthy_case_beside_it() -> None:
    promtool("test", "rules", HERE / "rules.test.yaml")


def test_each_alert_is_tested_firing_and_not() -> None:
    checks: dict[str, set[bool]] = {}
    for test in yaml.safe_load((HERE / "rules.test.yaml").read_text())["tests"]:
        for check in test["alert_rule_test"]:
            checks.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    assert checks == {rule["alert"]: {True, False} for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["for"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page.stem == rule["alert"]
    assert page.read_text().startswith(f"# {rule['alert']}\n")
    (row,) = re.findall(rf"^\| \[{rule['alert']}\]\(.*$", (page.parent / "README.md").read_text(), re.MULTILINE)
    assert f"| {rule['labels']['severity']} |" in row


def test_each_page_belongs_to_an_alert() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in ALERTS}


def expressions() -> Iterator[tuple[str, str]]:
    """All that is asked of Prometheus, with a name."""
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
        for number, asked in enumerate(re.findall(r'printf "(.*?)"', rule["annotations"]["description"])):
            yield f"{rule['alert']} description {number}", asked.replace("'%s'", '"x"')
    yield from queries(train="orders")
    for each in json.loads(BOARD.read_text())["templating"]["list"][1:]:
        yield f"variable {each['name']}", each["definition"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: value[:40])
def test_what_is_asked_for_is_exported(where: str, expression: str) -> None:
    bare = re.sub(r'"[^"]*"', '""', expression)
    named = set(re.findall(r"\b(?:eventwagon|messaging)_\w+", bare))
    assert named, where
    assert named <= NAMES | KNOWN, f"{where}: {sorted(named - NAMES - KNOWN)}"
    labels = {word for inside in re.findall(r"\{(.*?)\}", bare) for word in re.findall(r"(\w+)\s*[=!]", inside)}
    assert labels <= KNOWN, f"{where}: {sorted(labels - KNOWN)}"


def test_the_board_lays_out_its_panels_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(BOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= own
