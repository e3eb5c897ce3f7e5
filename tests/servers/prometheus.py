"""Prometheus: scrapes the targets of a test, evaluates its rules, answers queries."""

from __future__ import annotations

import http.client
import json
import shutil
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.install import prometheus
from tests.servers.ports import free_port
from tests.servers.server import Server


class PrometheusServer(Server):
    """Scrapes and evaluates every `every` milliseconds. Targets come and go while it runs; `rules` are files that
    promtool takes."""

    name = "prometheus"

    def __init__(self, directory: Path | None = None, *, rules: Sequence[Path] = (), every: int = 1000) -> None:
        self._binary = prometheus() / "prometheus"
        super().__init__(directory)
        self.port = free_port()
        self._every = every
        self._targets = self.directory / "targets"
        self._targets.mkdir()
        self._rules = self.directory / "rules"
        self._rules.mkdir()
        for file in rules:
            shutil.copy(file, self._rules)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        every = f"{self._every}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [f"{self._rules}/*.yaml"],
            "scrape_configs": [
                {
                    "job_name": "trains",
                    "file_sd_configs": [{"files": [f"{self._targets}/*.json"], "refresh_interval": "1s"}],
                }
            ],
        }
        file = self.directory / "prometheus.yml"  # JSON is YAML
        file.write_text(json.dumps(config))
        return [
            str(self._binary),
            f"--config.file={file}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.host}:{self.port}",
            "--log.level=warn",
        ]

    def ready(self) -> bool:
        """It says that it is. An error of HTTP means that it is not yet."""
        return self._get("/-/ready")[0] == 200

    def target(self, name: str, port: int | None) -> None:
        """Scrape this machine's port, with the label `job` of this name. None: no more. Idempotent."""
        file = self._targets / f"{name}.json"
        if port is None:
            file.unlink(missing_ok=True)
            return
        part = file.with_suffix(".part")
        part.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"], "labels": {"job": name}}]))
        part.rename(file)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API. Raises RuntimeError with what it says is wrong."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        status, body = self._get(f"/api/v1/{path}{query}")
        if status != 200:
            raise RuntimeError(f"{path} {parameters}: {status} {body.decode(errors='replace')}")
        return json.loads(body)["data"]

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def query(self, expression: str) -> dict[str, float]:
        """The values of an instant vector, by their labels as text."""
        data = self.ask("query", query=expression, time=f"{time.time():.3f}")
        return {str(sorted(each["metric"].items())): float(each["value"][1]) for each in data["result"]}

    def firing(self) -> list[dict[str, Any]]:
        """The alerts that fire now, with their labels and annotations."""
        alerts: list[dict[str, Any]] = self.ask("alerts")["alerts"]
        return [each for each in alerts if each["state"] == "firing"]
