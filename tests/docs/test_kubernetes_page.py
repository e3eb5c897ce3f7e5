"""docs/howto/run-on-kubernetes.md: the chart has its values, and going back does not delete the broker."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.docs.documents import ROOT

PAGES = ["docs/howto/run-on-kubernetes.md", "docs/orchestrators/kubernetes.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_chart_has_the_values_that_the_page_names(page: str) -> None:
    text = (ROOT / page).read_text()
    values: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "helm" / "eventwagon" / "values.yaml").read_text())
    named = {each.partition("=")[0] for found in re.findall(r"--set (\S+)", text) for each in found.split(",")}
    named |= set(re.findall(r"`((?:cleanup|metrics|networkPolicy|workers)\.[\w.]+)`", text))
    assert "target" in named
    for name in named:
        found: Any = values
        for part in name.split("."):
            assert part in found, name
            found = found[part]


def test_the_broker_is_in_another_namespace_than_the_one_that_is_deleted() -> None:
    text = (ROOT / PAGES[0]).read_text()
    brokers = set(re.findall(r"redis://redis\.([a-z]+):", text))
    ours = set(re.findall(r"-n ([a-z]+)", text)) | set(re.findall(r"kubernetes://([a-z]+)", text))
    assert brokers
    assert len(ours) == 1
    assert not brokers & ours
