"""What `deploy/` ships agrees with the code, as far as that can be seen without a cluster or a builder of images."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from eventwagon.orchestrators.kubernetes.names import OBSERVER
from eventwagon.orchestrators.kubernetes.template import Template
from tests.servers.install import KAFKA, PULSAR

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_template_is_taken() -> None:
    given = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "pod.yaml").read_text())
    Template("app:orders", given, secret="eventwagon", image="app", per_pod=1, handler_timeout=60.0)  # noqa: S106


def test_the_base_has_all_that_lies_beside_it() -> None:
    folder = ROOT / "deploy" / "kubernetes"
    base = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = {*base["resources"], *(f for made in base["configMapGenerator"] for f in made["files"])}
    assert listed | {"kustomization.yaml"} == {file.name for file in folder.iterdir() if file.is_file()}


def test_the_observers_are_probed_where_they_answer() -> None:
    deployment = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "observer.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["name"] == OBSERVER, "by it the image is found that the workers run"
    port = int(container["args"][container["args"].index("--health-port") + 1])
    probes = {
        container[f"{kind}Probe"]["httpGet"]["path"]: container[f"{kind}Probe"] for kind in ("readiness", "liveness")
    }
    assert set(probes) == {"/ready", "/live"}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {port}


def test_the_dockerfile_copies_what_there_is_and_runs_as_nobody_in_particular() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    program = re.findall(r"^ARG PROGRAM=(\S+)$", text, re.MULTILINE)
    sources = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    for source in (*program, *(s for s in sources if "$" not in s)):
        assert (ROOT / source).exists(), source
    installs = re.findall(r"pip (?:install|wheel) .*", text)
    known = all(
        "--constraint /source/requirements-dev.txt" in i or "--no-deps --no-build-isolation" in i for i in installs
    )
    assert known, "an image is made of known versions"
    assert re.search("^hatchling==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert not {*sources, *program} & set((ROOT / ".dockerignore").read_text().splitlines())
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE), "Kubernetes trusts numbers alone"
    said = dict(re.findall(r'org\.opencontainers\.image\.(\S+)="(.*?)"', text))
    assert said["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert said["base.name"] == re.findall(r"^FROM (\S+)$", text, re.MULTILINE)[0]
    extras = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)[0].split(",")
    assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_what_the_docs_have_built_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for document in (ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for program in re.findall(r"PROGRAM=(tests/[\w/.]+\w)", document.read_text()):
            assert (ROOT / program).exists(), program
            assert ignored.index("tests") < ignored.index(f"!{program}"), "the later line counts"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "eventwagon" / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version


def test_the_chart_holds_the_alerts_and_the_board() -> None:
    """By links, so that they can't differ. Where links become copies (a zip, Windows), they are to be the same."""
    files = ROOT / "deploy" / "helm" / "eventwagon" / "files"
    shipped = {"eventwagon.rules.yaml": "prometheus", "eventwagon.json": "grafana"}
    assert {file.name for file in files.iterdir()} == set(shipped)
    for name, folder in shipped.items():
        assert (files / name).read_bytes() == (ROOT / "deploy" / folder / name).read_bytes()


def test_compose_runs_what_the_tests_run() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    tags = {name: service["image"].rpartition(":")[2] for name, service in services.items()}
    assert (tags["kafka"], tags["pulsar"]) == (KAFKA, PULSAR)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", tag) for tag in tags.values()), (
        "of a tag that moves nobody knows what it is"
    )
