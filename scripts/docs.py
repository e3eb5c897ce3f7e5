"""Writes the generated parts of the documents from the code, between their markers.

    python scripts/docs.py           # write
    python scripts/docs.py --check   # exit 1 and name the files that are out of date

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; PARTS has the names.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import eventwagon
from eventwagon import (
    BatchContext,
    BlockingConnection,
    Connection,
    Context,
    DeadLetters,
    Train,
    breaker,
    errors,
    metrics,
    settings,
    testing,
)
from eventwagon.contracts import facts, lifecycle
from eventwagon.contracts.broker import Capabilities
from eventwagon.drivers.opening import open_drivers
from eventwagon.testing import conformance

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.simulation import crash_points as crash_points_module  # noqa: E402 - found once the root is on the path

_OF_CONTEXTS = ("emit", "publish")
_PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end of (?P=name) -->)", re.DOTALL)


def diagram() -> str:
    """The lifecycle as a picture."""
    return f"```mermaid\n{lifecycle.diagram()}```\n"


def transitions() -> str:
    """The lifecycle as a table."""
    rows = [
        (f"`{state}`", str(move), f"`{to}`" if to else "gone") for (state, move), to in lifecycle.TRANSITIONS.items()
    ]
    return table(("state", "what happens", "next state"), rows)


def all_settings() -> str:
    """Every setting of a train."""
    said = _attribute_docs(settings.Settings)
    rows = []
    for name, default in zip(settings.Settings.__struct_fields__, settings.Settings.__struct_defaults__, strict=True):
        shared = "yes" if name in settings.Settings().declared() else ""
        rows.append((f"`{name}`", f"`{default!r}`", _unit(name), shared, _linked(said[name])))
    return table(("setting", "default", "unit", "declared", "what and why"), rows)


def breaker_figures() -> str:
    """The figures of a circuit breaker."""
    said, kind = _attribute_docs(breaker.Breaker), breaker.Breaker
    rows = [
        (f"`{name}`", f"`{default!r}`", said[name])
        for name, default in zip(kind.__struct_fields__, kind.__struct_defaults__, strict=True)
    ]
    return table(("figure", "default", "what it sets"), rows)


def names() -> str:
    """The public names of the package."""
    said = {
        "Fact": "Any of the facts below.",
        "Listener": "A function that is called with each fact, on the event loop; it must not block.",
    }
    public = {name: getattr(eventwagon, name) for name in eventwagon.__all__}
    kinds = {name: thing.__module__ for name, thing in public.items() if name not in said}
    parts = {
        "To declare, run and steer": [
            name for name in public if kinds.get(name) not in (errors.__name__, facts.__name__)
        ],
        "Errors ([below](#errors) with what to do)": [name for name in public if kinds.get(name) == errors.__name__],
        "Facts, which listeners receive and the journal stores": [
            name for name in public if kinds.get(name) == facts.__name__
        ],
    }
    text = ""
    for title, listed in parts.items():
        rows = [(f"`{name}`", said.get(name) or _first_sentence(public[name])) for name in listed]
        text += f"{title}:\n\n{table(('name', 'what it is'), rows)}\n"
    return text.rstrip() + "\n"


def error_tree() -> str:
    """Every error, with what it means and what to do."""
    by_handlers = [errors.Reject, errors.Retry, errors.Snooze, errors.Failed]
    ordered = [*_tree(errors.EventwagonError), errors.Defect, *by_handlers]
    return table(
        ("error", "is a", "when, and what to do"),
        [(f"`{kind.__name__}`", f"`{kind.__bases__[0].__name__}`", _whole(kind)) for kind in ordered],
    )


def broker_checks() -> str:
    """What the suite holds a broker to."""
    rows = [(f"`{c}`", ", ".join(c.requires), c.name) for c in conformance.broker_checks()]
    return table(("check", "needs", "what must hold"), rows)


_URLS = (
    ("memory", "memory://", "memory://"),
    ("SQLite", "sqlite:///var/trains", "sqlite:///dir"),
    ("Redis, Valkey", "redis://host:6379/0", "redis://localhost"),
    ("Kafka", "kafka://host:9092,host2:9092", "kafka://localhost:9092"),
    ("Kafka, several partitions", "kafka://host:9092?partitions=4", "kafka://localhost:9092?partitions=4"),
    (
        "Pulsar",
        "pulsar://host:6650/tenant/namespace?admin=http://host:8080&registry=URL",
        "pulsar://localhost:6650/public/default?admin=http://localhost:8080&registry=memory://",
    ),
    ("SQS with DynamoDB", "sqs://eu-west-1/prefix", "sqs://eu-west-1/prefix"),
)


def brokers() -> str:
    """What each of our drivers can do, from the drivers themselves."""
    names = Capabilities.__struct_fields__
    rows = []
    for name, url, sample in _URLS:
        can = open_drivers(sample).broker.capabilities
        gaps = ", ".join(f"`{each}`" for each in names if not getattr(can, each)) or "none"
        rows.append((name, f"`{url}`", *("yes" if getattr(can, each) else "**no**" for each in names), gaps))
    return table(("broker", "URL", *(f"`{each}`" for each in names), "not there"), rows)


def fences() -> str:
    """Which of our brokers refuse writes themselves, and which need the lease."""
    plain = ((name.removesuffix(", several partitions").replace(", ", " and "), sample) for name, _, sample in _URLS)
    can = {name: open_drivers(sample).broker.capabilities.fences for name, sample in plain}
    have, lack = ([name for name, fences in can.items() if fences is which] for which in (True, False))
    if not lack:
        return f"That needs a broker with the capability `fences`: {_listed(have)} have it.\n"
    return (
        f"That needs a broker with the capability `fences`: {_listed(have)} have it.\n{_listed(lack)} "
        f"{'has' if len(lack) == 1 else 'have'} not.\n"
    )


def declares(broker: str) -> Callable[[], str]:
    """What one of our brokers declares, and what it does not."""

    def sentence() -> str:
        (sample,) = [sample for name, _, sample in _URLS if name == broker]
        can = open_drivers(sample).broker.capabilities
        names = Capabilities.__struct_fields__
        have, lack = ([f"`{each}`" for each in names if getattr(can, each) is which] for which in (True, False))
        return f"It declares {_listed(have)}.\n" + (f"It does not declare {_listed(lack)}.\n" if lack else "")

    return sentence


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def registry_checks() -> str:
    """What the suite holds a registry to."""
    return table(("check", "what must hold"), [(f"`{c}`", c.name) for c in conformance.registry_checks()])


def orchestrator_checks() -> str:
    """What the suite holds an orchestrator to."""
    rows = [(f"`{c}`", ", ".join(c.requires), c.name) for c in conformance.orchestrator_checks()]
    return table(("check", "needs", "what must hold"), rows)


def crash_points() -> str:
    """Each point at which a process may die, and the test that kills there."""
    rows = [(p.after, p.stands, p.finishes, f"`{p.name}`") for p in crash_points_module.POINTS]
    return table(("it died after", "what is left", "who finishes it", "test"), rows)


def reference(*kinds: type) -> str:
    """The public members of some classes, as their docstrings have them."""
    parts = []
    for kind in kinds:
        parts.append(f"## {kind.__name__}\n\n{inspect.getdoc(kind)}\n")
        for name, member in vars(kind).items():
            if name.startswith("_"):
                continue
            parts.append(_entry(kind, name, member))
    return "\n".join(parts)


def contexts() -> str:
    """What handlers call on their contexts."""
    return "\n".join(_entry(kind, name, vars(kind)[name]) for kind in (Context, BatchContext) for name in _OF_CONTEXTS)


def _entry(kind: type, name: str, member: object) -> str:
    doc = inspect.getdoc(member)
    if doc is None:
        raise SystemExit(f"{kind.__name__}.{name} has no docstring")
    call = _call(kind, name, member)
    plain = f"{_written(kind)}.{name}"
    paragraphs = [_filled(linked) if (linked := _linked(each)) != each else each for each in doc.split("\n\n")]
    return "\n\n".join([f"### `{plain}`", *([_filled(f"`{call}`")] if call != plain else []), *paragraphs]) + "\n"


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def _linked(doc: str) -> str:
    """With links to the documents that a docstring names by their paths."""
    return re.sub(r"\bdocs/([\w/-]+\.md)\b", lambda found: f"[{title(ROOT / found[0])}]({found[1]})", doc)


def title(document: Path) -> str:
    """The words of its first heading."""
    return document.read_text().partition("\n")[0].removeprefix("# ")


def _written(kind: type) -> str:
    """What an object of this class is called in the documents."""
    return {BlockingConnection: "blocking", Context: "ctx", BatchContext: "ctx"}.get(kind, kind.__name__.lower())


class _Default(str):
    """A default as it stands in a signature."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> object:
        """That of a parameter; functions by their names."""
        value = parameter.default
        if isinstance(value, tuple):
            return cls(f"({''.join(f'{each.__name__}, ' for each in value).rstrip()})")
        return cls(value.__name__) if callable(value) and value is not parameter.empty else value


def _call(kind: type, name: str, member: object) -> str:
    """How a member is written where it is used."""
    of = _written(kind)
    if isinstance(member, property):
        return f"{of}.{name}"
    function: Any = inspect.unwrap(cast("Callable[..., Any]", member))
    signature = inspect.signature(function)
    given = [p for p in list(signature.parameters.values())[1:] if p.annotation != "Never"]
    own = [p.replace(annotation=p.empty, default=_Default.of(p)) for p in given]
    words = str(signature.replace(parameters=own, return_annotation=signature.empty))
    how = ""
    if function is not member:
        how = "async with "
    elif inspect.iscoroutinefunction(function):
        how = "await "
    elif "AsyncIterator" in str(signature.return_annotation):
        how = "async for … in "
    return f"{how}{of}.{name}{words}"


def instruments() -> str:
    """All metrics, by who exports them."""
    parts = {
        "By OpenTelemetry's conventions for messaging, from each process": lambda i: i.name.startswith("messaging."),
        "From each process": lambda i: i.name.startswith("eventwagon.") and i.by == "process",
        "The whole train, from one observer": lambda i: i.by == "observer",
    }
    text = ""
    for title, belongs in parts.items():
        rows = [
            (
                f"`{each.name}`",
                f"`{each.in_prometheus}`",
                each.kind,
                each.unit.strip("{}"),
                each.help,
                ", ".join(f"`{label}`" for label in each.labels if label != metrics.instruments.TRAIN),
            )
            for each in metrics.INSTRUMENTS
            if belongs(each)
        ]
        head = ("instrument", "in Prometheus", "kind", "unit", "what", "labels besides `eventwagon.train`")
        text += f"{title}:\n\n{table(head, rows)}\n"
    return text.rstrip() + "\n"


def metric_labels() -> str:
    """What the labels of metrics say."""
    return table(("label", "what it says"), [(f"`{k}`", v) for k, v in metrics.instruments.LABELS.items()])


PARTS: dict[str, Callable[[], str]] = {
    "crash-points": crash_points,
    "lifecycle-diagram": diagram,
    "lifecycle-table": transitions,
    "settings": all_settings,
    "breaker": breaker_figures,
    "public-names": names,
    "errors": error_tree,
    "connection": lambda: reference(Train, Connection, BlockingConnection),
    "contexts": contexts,
    "running-train": lambda: (
        reference(testing.RunningTrain)
        .replace("`runningtrain.", "`train.")
        .replace("`await runningtrain.", "`await train.")
    ),
    "dead-letters": lambda: (
        reference(DeadLetters)
        .replace("`deadletters.", "`connection.dead.")
        .replace("in deadletters.", "in connection.dead.")
        .replace("await deadletters.", "await connection.dead.")
    ),
    "brokers": brokers,
    "fences": fences,
    "instruments": instruments,
    "metric-labels": metric_labels,
    "redis-declares": declares("Redis, Valkey"),
    "pulsar-declares": declares("Pulsar"),
    "sqs-declares": declares("SQS with DynamoDB"),
    "broker-checks": broker_checks,
    "registry-checks": registry_checks,
    "orchestrator-checks": orchestrator_checks,
}


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _tree(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def _whole(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _first_sentence(thing: object) -> str:
    return re.split(r"(?<=[.:]) (?=[A-Z`])", _whole(thing).split(" `Workers(each", 1)[0])[0].rstrip(":")


def _unit(name: str) -> str:
    if name in settings._SECONDS:
        return "s"
    return {"max_event_bytes": "bytes", "prepare": "pressure"}.get(name, "count" if name in settings._WHOLE else "")


def _attribute_docs(kind: type) -> dict[str, str]:
    """The docstrings that stand below the fields of a class."""
    (body,) = [node for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef)]
    said = {}
    for field, doc in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if not isinstance(doc, ast.Expr):
                raise SystemExit(f"setting {field.target.id} has no docstring")
            said[field.target.id] = " ".join(str(ast.literal_eval(doc.value)).split())
    return said


def rendered(text: str) -> str:
    """The document with each of its generated parts made anew."""
    return _PART.sub(lambda m: f"{m[1]}{PARTS[m['name']]()}{m[4]}", text)


def documents() -> list[Path]:
    """Every Markdown document of the project."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def main(arguments: list[str]) -> int:
    """Write, or check."""
    stale = [(path, new) for path in documents() if (new := rendered(old := path.read_text())) != old]
    for path, new in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: run python scripts/docs.py")
        else:
            path.write_text(new)
            print(f"{path.relative_to(ROOT)} written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
