"""What a scrape answers, read by prometheus_client's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from eventwagon.metrics import Metrics
from eventwagon.metrics.prometheus import scrape


class Figures:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.kinds = {family.name: family.type for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    @classmethod
    def of(cls, metrics: Metrics) -> Figures:
        return cls(scrape(metrics)[0].decode())

    def all(self, name: str, **labels: str) -> list[float]:
        """The values of the samples of this name that have these labels, whatever others they have."""
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]

    def sum(self, name: str, **labels: str) -> float:
        return sum(self.all(name, **labels))

    def one(self, name: str, **labels: str) -> float:
        (value,) = self.all(name, **labels)
        return value

    @property
    def series(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(s.name, frozenset(s.labels.items())) for s in self.samples}
