"""Metrics over real HTTP: scraped by Prometheus's parser, sent to an OpenTelemetry receiver, and from the command
line."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from eventwagon import Train, UsageError, Volume, Workers
from eventwagon import answering as answering_module
from eventwagon.answering import Answer
from eventwagon.cli.scraped import Scraped
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.event import Channel
from eventwagon.metrics import INSTRUMENTS, Metrics, serving
from eventwagon.metrics.opentelemetry import exporting
from eventwagon.metrics.prometheus import PrometheusCollector
from eventwagon.policy.edits import spec_of
from tests.scraped import Figures
from tests.servers.ports import free_port

PROGRAM = """
from eventwagon import Train, Volume, Workers

numbers = Train("numbers", limit=Volume(10), workers=Workers(each=2))


@numbers.on("numbers")
async def handle(n: int) -> None: ...
"""


def get(port: int, path: str = "/metrics", accept: str = "") -> tuple[str, str]:
    """The answer's body and its content type."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return answer.read().decode(), answer.headers["Content-Type"]


def some() -> Metrics:
    metrics = Metrics()
    metrics.called("publish", Channel("t", 7), 3, 0.02, "")
    metrics.called("publish", Channel("t", 8), 2, 0.3, "")
    metrics.called("publish", Channel("t", 8), 0, 30.0, "Unavailable")
    metrics.handled(Channel("t", 7), [0.001, 0.2], [1.5, 2.5], "", late=False)
    return metrics


def test_a_scrape_in_both_formats() -> None:
    async def main() -> None:
        async with serving(some(), 0) as port:
            text, kind = await asyncio.to_thread(get, port)
            assert kind.startswith("text/plain")
            found = Figures(text)
            assert found.one("messaging_client_sent_messages_total") == 5
            bucket = "messaging_client_operation_duration_seconds_bucket"
            assert found.one(bucket, error_type="", le="0.025") == 1
            assert found.one(bucket, error_type="", le="+Inf") == 2
            assert found.one(bucket, error_type="Unavailable", le="10.0") == 0
            assert found.one("eventwagon_event_wait_seconds_sum", eventwagon_event_of="new") == 4
            text, kind = await asyncio.to_thread(get, port, "/metrics", "application/openmetrics-text; version=1.0.0")
            assert kind.startswith("application/openmetrics-text")
            parse: Any = openmetrics  # it has no types
            assert {family.name for family in parse(text)} >= {"messaging_client_sent_messages"}
            _, kind = await asyncio.to_thread(get, port, "/metrics", "application/openmetrics-text; version=new")
            assert kind.startswith("text/plain")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                await asyncio.to_thread(get, port, "/")
            with pytest.raises(UsageError, match=f"--metrics-port {port}: "):
                async with serving(some(), port):
                    pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((object(), 0), "give a Metrics"),
        ((Metrics(), True), "port must be"),
        ((Metrics(), -1), "port must be"),
        ((Metrics(), 65536), "port must be"),
        ((Metrics(), "9464"), "port must be"),
        ((Metrics(), float("nan")), "port must be"),
        ((Metrics(), 0, None), "host=None"),
        ((Metrics(), 0, "no such host"), "--metrics-host no such host"),
        ((Metrics(), 0, "\ud800"), "--metrics-host"),
        ((Metrics(), 0, "a\0b"), "--metrics-host"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], said: str) -> None:
    async def main() -> None:
        async with serving(*arguments):
            pass

    with pytest.raises(UsageError, match=said):
        asyncio.run(main())


def test_what_is_no_exporter_is_refused() -> None:
    async def main() -> None:
        wrong: Any = "otlp"
        async with exporting(some(), wrong):
            pass

    with pytest.raises(UsageError, match="is no MetricExporter"):
        asyncio.run(main())


def test_a_scrape_that_fails_is_an_error_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        metrics = some()

        def fails() -> Any:
            raise RuntimeError("no figures")

        leave = metrics.joined("t", "memory", "", fails)
        async with serving(metrics, 0) as port:
            with pytest.raises(urllib.error.HTTPError, match="500"):
                await asyncio.to_thread(get, port)
            leave()
            assert (await asyncio.to_thread(get, port))[0]

    asyncio.run(main())
    assert "no figures" in caplog.text


def test_a_client_that_does_not_read_its_answer_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "_PATIENCE", 0.2)
    body = b"x" * 20_000_000  # more than the system takes for a client that reads nothing

    def asked_late(port: int) -> int:
        """How much is still sent to a client that begins to read after a second."""
        with socket.create_connection(("127.0.0.1", port)) as client, suppress(ConnectionResetError):
            client.settimeout(10)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            time.sleep(1)
            read = 0
            while some := client.recv(1_000_000):
                read += len(some)
            return read
        return 0

    async def answer(_: object) -> Answer:
        return Answer("200 OK", body)

    async def main() -> None:
        async with answering_module.answering(answer, 0, "127.0.0.1", option="metrics") as port:
            assert await asyncio.to_thread(asked_late, port) < len(body)

    asyncio.run(main())


def test_the_collector_in_a_registry_of_the_programs_own() -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(PrometheusCollector(some()))
    assert Figures(generate_latest(registry).decode()).one("messaging_client_sent_messages_total") == 5


class Kept(MetricExporter):
    """Keeps what it is given; fails the first time if it is to."""

    def __init__(self, *, raises: bool = False) -> None:
        super().__init__()
        self.got: list[MetricsData] = []
        self.raises = raises
        self.is_shut_down = False

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        if self.raises:
            self.raises = False
            raise OSError("no collector there")
        self.got.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self.is_shut_down = True


def test_an_exporter_that_fails_to_shut_down_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Kept):
        def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
            raise OSError("no way to shut down")

    async def main() -> None:
        async with exporting(some(), Fails(), every=60):
            pass

    asyncio.run(main())
    assert "no way to shut down" in caplog.text


@pytest.mark.parametrize("hangs_in", ["export", "shutdown"])
def test_an_exporter_that_hangs_keeps_no_process(tmp_path: Path, hangs_in: str) -> None:
    """Neither its last export nor the end of the interpreter waits for it for ever."""
    program = f"""
import asyncio, threading
from eventwagon.metrics import Metrics, opentelemetry
from eventwagon.metrics.opentelemetry import exporting
from tests.scenarios.test_metrics_exported import Kept, some

class Hangs(Kept):
    def {hangs_in}(self, *_, **__):
        threading.Event().wait()

async def main():
    async with exporting(some(), Hangs(), every=0.05):
        await asyncio.sleep(0.3)

opentelemetry._AT_THE_END = 0.2
asyncio.run(main())
print("ended")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, b"ended\n"), ran.stderr
    assert b"has not ended within 0.2 s, and is left alone" in ran.stderr


def test_a_scrape_of_many_series_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, turns, during = some(), 0, []
    collect = Metrics.collect

    def slow(self: Metrics) -> Any:
        before = turns
        time.sleep(0.3)
        during.append(turns - before)
        return collect(self)

    monkeypatch.setattr(Metrics, "collect", slow)

    async def main() -> None:
        nonlocal turns
        async with serving(metrics, 0) as port:
            asking = asyncio.create_task(asyncio.to_thread(get, port))
            while not asking.done():
                turns += 1
                await asyncio.sleep(0.01)
            await asking

    asyncio.run(main())
    assert during[0] >= 2


def test_opentelemetry_gets_the_same_figures_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    exporter, metrics = Kept(raises=True), some()

    async def main() -> None:
        async with exporting(metrics, exporter, every=0.05):
            async with asyncio.timeout(20):
                while len(exporter.got) < 2:
                    await asyncio.sleep(0.01)
            metrics.called("publish", Channel("t", 9), 4, 0.1, "")

    asyncio.run(main())
    assert exporter.is_shut_down
    assert "no collector there" in caplog.text
    (resource,) = exporter.got[-1].resource_metrics
    (scope,) = resource.scope_metrics
    found: dict[str, Any] = {metric.name: metric for metric in scope.metrics}
    listed = {each.name: each for each in INSTRUMENTS}
    assert all((m.unit, m.description) == (listed[n].unit, listed[n].help) for n, m in found.items())
    (sent,) = found["messaging.client.sent.messages"].data.data_points
    assert sent.value == 9
    assert sent.attributes == {
        "messaging.operation.name": "publish",
        "messaging.destination.template": "t_v{wagon}",
        "eventwagon.train": "t",
    }
    points = {p.attributes.get("error.type"): p for p in found["messaging.client.operation.duration"].data.data_points}
    assert points["Unavailable"].count == 1
    assert points["Unavailable"].bucket_counts[-1] == 1
    assert (points[None].count, points[None].min, points[None].max) == (3, 0.02, 0.3)


@contextmanager
def collector() -> Iterator[tuple[int, list[ExportMetricsServiceRequest]]]:
    """An OTLP receiver over HTTP."""
    got: list[ExportMetricsServiceRequest] = []

    class Receives(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/metrics"
            got.append(ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Receives)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_over_otlp_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (port, got):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")

        async def main() -> None:
            async with exporting(some()):
                pass

        asyncio.run(main())
    (resource,) = got[0].resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "shop"
    assert {"messaging.client.sent.messages", "eventwagon.event.wait"} <= names(got)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "0", "inf"])
def test_an_interval_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", text)

    async def main() -> None:
        async with exporting(some(), Kept()):
            pass

    with pytest.raises(UsageError, match="OTEL_METRIC_EXPORT_INTERVAL"):
        asyncio.run(main())


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_a_variable_that_the_exporter_can_t_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_asked_for: bool
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nobody")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp" if is_asked_for else "")

    async def main() -> None:
        async with Scraped(None, "").answering():
            pass

    if is_asked_for:
        with pytest.raises(UsageError, match="nobody"):
            asyncio.run(main())
    else:
        asyncio.run(main())
        assert "no metrics are sent to OpenTelemetry: OTLP can't be set up" in caplog.text


def test_a_train_in_a_program_is_scraped() -> None:
    async def main() -> None:
        train, metrics = Train("t", limit=Volume(10), workers=Workers(each=2)), Metrics()

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with (
            serving(metrics, 0) as port,
            train.connect("memory://", meter=metrics, listeners=()) as connection,
            connection.running(),
        ):
            await connection.publish_many(range(25))
            async with asyncio.timeout(20):
                while True:
                    found = Figures((await asyncio.to_thread(get, port))[0])
                    if found.sum("messaging_process_duration_seconds_count") == 25 and found.all("eventwagon_wagons"):
                        return
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_process_that_an_orchestrator_starts_is_measured() -> None:
    async def main() -> None:
        train, metrics, url = Train("t", limit=Volume(10), workers=Workers(each=3)), Metrics(), "memory://started"

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with train.connect(url, listeners=()) as connection, train.working(url, meter=metrics) as (_, local):
            await connection.publish_many(range(5))
            (wagon,) = connection.manifest.wagons
            await local.ensure(spec_of(connection.manifest, wagon, workers=3))
            async with asyncio.timeout(20):
                while Figures.of(metrics).sum("messaging_process_duration_seconds_count") < 5:
                    await asyncio.sleep(0.01)
            found = Figures.of(metrics)
            assert found.one("eventwagon_workers") == 3
            assert found.one("eventwagon_info", messaging_system="memory") == 1
            assert not found.all("eventwagon_wagons"), "it observes nothing"
        assert not Figures.of(metrics).all("eventwagon_workers")

    asyncio.run(main())


async def started(*arguments: str, cwd: Path, **environment: str) -> asyncio.subprocess.Process:
    variables = {**os.environ, **environment}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventwagon", *arguments, cwd=cwd, env=variables, stderr=asyncio.subprocess.PIPE
    )


def test_run_sends_to_the_collector_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)

    async def main(port: int, got: list[ExportMetricsServiceRequest]) -> None:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        runs = await started("run", "app.py:numbers", cwd=tmp_path, **variables)
        try:
            async with asyncio.timeout(40):
                while not {"eventwagon.info", "eventwagon.wagons"} <= names(got):
                    assert runs.returncode is None
                    await asyncio.sleep(0.1)
        finally:
            runs.terminate()
            _, said = await runs.communicate()
        assert runs.returncode == 0, said.decode()

    with collector() as (port, got):
        asyncio.run(main(port, got))


def names(got: list[ExportMetricsServiceRequest]) -> set[str]:
    """The names of all metrics in these requests."""
    return {m.name for request in got for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics}


@pytest.mark.parametrize(
    ("variables", "sends"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, True),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_METRICS_EXPORTER": "otlp"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_opentelemetrys_own_variables_turn_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sends: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (Scraped(None, "").meter is not None) == sends


async def scraped(port: int, name: str) -> Figures:
    """The figures, once there is one of this name."""
    async with asyncio.timeout(40):
        while True:
            try:
                found = Figures((await asyncio.to_thread(get, port))[0])
                if found.all(name):
                    return found
            except OSError:
                pass  # it is starting
            await asyncio.sleep(0.1)


def test_run_and_the_exporter_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    inside, outside = free_port(), free_port()
    url = f"sqlite:///{tmp_path}/trains"

    async def main() -> None:
        runs = await started("run", "app.py:numbers", "--url", url, "--metrics-port", str(inside), cwd=tmp_path)
        looks: asyncio.subprocess.Process | None = None
        try:
            theirs = await scraped(inside, "eventwagon_wagons")
            assert theirs.one("eventwagon_wagons", eventwagon_wagon_state="active") == 1
            port = str(outside)
            looks = await started("metrics", url, "--metrics-port", port, "--every", "0.2", cwd=tmp_path)
            found = await scraped(outside, "eventwagon_wagons")
            assert found.one("eventwagon_wagons", eventwagon_wagon_state="active") == 1
            assert found.one("eventwagon_processes", eventwagon_role="observe") == 1
            assert found.one("eventwagon_pressure_ratio", eventwagon_limit="Volume(10)") == 0
            assert found.one("eventwagon_workers") == 2
            taken = await started("observe", "app.py:numbers", "--url", url, "--metrics-port", port, cwd=tmp_path)
            _, said = await taken.communicate()
            assert taken.returncode == 2
            assert f"--metrics-host 127.0.0.1 --metrics-port {port}: " in said.decode()
        finally:
            for process in filter(None, (looks, runs)):
                process.terminate()
                await process.communicate()

    asyncio.run(main())


def test_publish_says_what_it_does(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    port = free_port()
    variables = {**os.environ, "EVENTWAGON_URL": "sqlite:///trains"}

    async def main() -> None:
        gives = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "eventwagon", "publish", "app.py:numbers", "--metrics-port", str(port)),
            cwd=tmp_path,
            env=variables,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert gives.stdin is not None
        gives.stdin.write(b"1\n2\n3\n")
        await gives.stdin.drain()
        found = await scraped(port, "messaging_client_sent_messages_total")
        # beside it, as in a container whose environment says the port of the process that runs there
        beside = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "eventwagon", "publish", "app.py:numbers"),
            cwd=tmp_path,
            env={**variables, "EVENTWAGON_METRICS_PORT": str(port)},
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await beside.communicate(b"4\n")
        assert beside.returncode == 0, said
        gives.stdin.close()
        _, said = await gives.communicate()
        assert gives.returncode == 0, said
        assert found.one("messaging_client_sent_messages_total") == 3

    asyncio.run(main())


def test_a_mistyped_train_is_told(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    url = f"sqlite:///{tmp_path}/trains"

    async def main() -> None:
        async with Train("numbers").connect(url) as connection:
            await connection.publish(1)
        looks = await started("metrics", url, "--train", "number", "--metrics-port", str(free_port()), cwd=tmp_path)
        assert looks.stderr is not None
        async with asyncio.timeout(40):
            while b"there is no train number; there are numbers" not in (line := await looks.stderr.readline()):
                assert line, "it has ended"
        looks.terminate()
        await looks.communicate()

    asyncio.run(main())


def test_the_exporter_changes_nothing_and_goes_on_when_a_train_goes() -> None:
    from eventwagon.contracts.address import Drivers
    from eventwagon.drivers.memory.registry import MemoryRegistry
    from eventwagon.metrics.onlooking import onlooking

    async def main() -> None:
        broker, registry, metrics = MemoryBroker(), MemoryRegistry(), Metrics()
        train = Train("t", limit=Volume(5), workers=Workers(each=1))

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with (
            train.connect(broker=broker, registry=registry, listeners=()) as connection,
            onlooking(Drivers(broker, registry), metrics, lambda name, declared: train.settings, every=0.05),
        ):
            await connection.found()
            async with asyncio.timeout(20):
                while not Figures.of(metrics).all("eventwagon_wagons"):
                    await asyncio.sleep(0.05)
                version = (await registry.read("t")).version
                await asyncio.sleep(0.3)
                assert (await registry.read("t")).version == version
                assert not await registry.members("t")
                async with connection.running():
                    await connection.publish_many(range(12))
                    while not Figures.of(metrics).all("eventwagon_switches_total"):
                        await asyncio.sleep(0.05)
                await connection.remove(force=True)
                while Figures.of(metrics).all("eventwagon_wagons"):
                    await asyncio.sleep(0.05)

    asyncio.run(main())


@pytest.mark.parametrize(("module", "extra"), [("prometheus", "prometheus"), ("opentelemetry", "otel")])
def test_a_package_that_is_missing_is_named(module: str, extra: str) -> None:
    code = f"""
import sys
sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
from eventwagon import UsageError
try:
    import eventwagon.metrics.{module}
except UsageError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert f"pip install 'eventwagon[{extra}]'" in done.stdout
