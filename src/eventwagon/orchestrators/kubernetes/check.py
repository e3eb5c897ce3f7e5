"""Finds the faults of a user's Pod template: all of them, each with its place. Pure.

Types and names are those of Kubernetes's own description of a Pod. Faults that only the API server can find (a mounted
volume that does not exist, an admission controller's rules) are reported when the first wagon is opened.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from kubernetes_asyncio.client import models

from ...contracts.process import POD
from ...display.text import plain
from .names import HEALTH_PORT, MARGIN, SELECTOR, WORKER

URL = "EVENTWAGON_URL"
_QUANTITIES = {"limits", "requests", "overhead", "sizeLimit", "divisor"}
"""Fields that take numbers too, though they are described as text."""
_OWN = "the orchestrator's"


class Loader(yaml.SafeLoader):
    """Plain YAML, in which no key may occur twice: the second would silently replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Like the base class. Raises YAMLError for a key that occurs twice."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def faults_of(given: object, *, secret: bool, leave: int) -> Sequence[str]:
    """The faults, each once. `secret`: workers get EVENTWAGON_URL from elsewhere; `leave`: the seconds that a handler
    may take."""
    return list(dict.fromkeys([*_typed(given, "V1PodTemplateSpec", ""), *_rules(_of(given), secret, leave)]))


# --- as Kubernetes describes it -----------------------------------------------------------------


def _typed(value: object, kind: str, path: str) -> Iterator[str]:
    if value is None:
        return
    at = path or "it"
    if item := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{at}: has to be a list, not {_kind(value)}"
            return
        for i, each in enumerate(value):
            where = f"{path}[{i}]"
            yield from _typed(each, item[1], where) if each is not None else [f"{where}: is empty"]
    elif re.match(r"dict\W", kind) or hasattr(models, kind):
        if not isinstance(value, Mapping):
            yield f"{at}: has to be a mapping, not {_kind(value)}"
            return
        for key, each in value.items():
            where = f"{path}.{plain(str(key), 100)}".lstrip(".")
            if not isinstance(key, str):
                yield f"{where}: its name has to be text: put it in quotes"
            elif hasattr(models, kind):
                yield from _field(key, each, getattr(models, kind), where)
            elif each is None:
                yield f"{where}: is empty"
            else:
                yield from _typed(each, "str", where)
    else:
        yield from _scalar(value, kind, at)


def _field(key: str, value: object, model: Any, where: str) -> Iterator[str]:
    names = {json: name for name, json in model.attribute_map.items()}
    if key in names:
        yield from _typed(value, model.openapi_types[names[key]], where)
        return
    close = difflib.get_close_matches(key, names, 1)
    yield f"{where}: Kubernetes knows no such field in a Pod template" + (f"; is {close[0]} meant?" if close else "")


def _scalar(value: object, kind: str, where: str) -> Iterator[str]:
    match kind:
        case "bool":
            good, named = isinstance(value, bool), "true or false"
        case "int":
            good, named = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        case "object":  # a port: its number or its name
            good, named = isinstance(value, int | str) and not isinstance(value, bool), "a number or a name"
        case _:
            is_quantity = not _QUANTITIES.isdisjoint(re.split(r"\W", where)[-2:])
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            good = isinstance(value, str) or (is_quantity and is_number)
            named = "a quantity, say 100m or 1Gi," if is_quantity else "text (in quotes)"
    if not good:
        yield f"{where}: has to be {named}, not {_kind(value)}"


def _kind(value: object) -> str:
    """The type of the value, never the value itself, which may be a password."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
    return "a date" if isinstance(value, datetime.date) else type(value).__name__


# --- as the orchestrator needs it ---------------------------------------------------------------


def _rules(given: Mapping[str, Any], secret: bool, leave: int) -> Iterator[str]:
    metadata, spec = _of(given.get("metadata")), _of(given.get("spec"))
    for key in sorted(map(str, set(metadata) - {"labels", "annotations"})):
        yield f"metadata.{key}: is {_OWN}; yours are labels and annotations"
    for kind in ("labels", "annotations"):
        for name in map(str, _of(metadata.get(kind))):
            if name.startswith("eventwagon/") or name == SELECTOR.partition("=")[0]:
                yield f"metadata.{kind}.{name}: is {_OWN}; leave it out"
    if spec.get("restartPolicy", "Always") != "Always":
        yield "spec.restartPolicy: has to be Always: a crashed worker is started again"
    seconds, least = spec.get("terminationGracePeriodSeconds", leave + MARGIN), leave + MARGIN
    if isinstance(seconds, int) and seconds < least:
        yield (
            f"spec.terminationGracePeriodSeconds: {seconds} would cut handlers off: handler_timeout wants {least} at "
            "least (or leave it out)"
        )
    yield from _containers(spec)
    workers = [(i, c) for i, c in enumerate(_list(spec.get("containers"))) if c.get("name") == WORKER]
    for i, worker in workers[:1] or [(0, {})]:
        yield from _worker(worker, f"spec.containers[{i}]", secret)


def _containers(spec: Mapping[str, Any]) -> Iterator[str]:
    kinds = ("containers", "initContainers")
    all_of = [(f"spec.{k}[{i}]", k, c) for k in kinds for i, c in enumerate(_list(spec.get(k)))]
    names = Counter(str(c.get("name")) for *_, c in all_of)
    for where, kind, container in all_of:
        name = container.get("name")
        if not name:
            yield f"{where}.name: is needed; what is for the workers is named {WORKER!r}"
            continue
        if names[str(name)] > 1:
            yield f"{where}.name: {plain(repr(name), 60)} is the name of {names[str(name)]} containers"
        elif name == WORKER and kind != "containers":
            yield f"{where}.name: {WORKER!r} is the workers' own container; name this one otherwise"
        if name == WORKER and kind == "containers":
            continue
        if not container.get("image"):
            yield f"{where}.image: is needed; of the container {WORKER!r} alone it is known"
        for i, port in enumerate(_list(container.get("ports"))):
            if port.get("containerPort") == HEALTH_PORT:
                yield f"{where}.ports[{i}].containerPort: at {HEALTH_PORT} the worker answers the kubelet's probes"


def _worker(worker: Mapping[str, Any], where: str, secret: bool) -> Iterator[str]:
    if "args" in worker:
        yield f"{where}.args: are {_OWN}; give the program in command"
    for kind in ("readinessProbe", "livenessProbe"):
        if kind == "readinessProbe" and kind in worker and worker[kind] is None:
            yield f"{where}.{kind}: is needed; its times are yours"
        for asks in sorted({"exec", "grpc", "tcpSocket", "httpGet"} & set(map(str, _of(worker.get(kind))))):
            yield f"{where}.{kind}.{asks}: what it asks is {_OWN}; its times are yours"
    env = {str(e.get("name")): (f"{where}.env[{i}]", e) for i, e in enumerate(_list(worker.get("env")))}
    if POD in env:
        yield f"{env[POD][0]}: {POD} is {_OWN}; leave it out"
    if URL in env and "value" in env[URL][1]:
        yield f"{env[URL][0]}.value: {URL} stands in plain sight; keep it in a Secret (option secret)"
    if not secret and URL not in env and not worker.get("envFrom"):
        yield f"{where}.env: where do the workers get {URL} from? Name a Secret that holds it: ?secret=NAME"


def _of(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Mapping[str, Any]]:
    """The items with their places; an item that is no mapping becomes an empty one."""
    return [_of(item) for item in value] if isinstance(value, list) else []
