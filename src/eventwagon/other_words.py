"""The words of other frameworks for what eventwagon calls otherwise: hints for those who come from Celery, Dramatiq,
Taskiq, arq, FastStream or Spring. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_ATTEMPTS = "write attempts=, which counts the first one too{}"
_WORKERS = "write workers=Workers(each={}) for those of each wagon, Workers(total={}) for those of the train"
_AT_A_TIME = "write concurrency={}: how many events of the channel are handled at a time, in all processes"
_CHANNEL = 'the first argument names the channel: @train.on("{}")'
_TRAIN = "a train is its own queue, named by the first argument; further channels are named by @train.on"
_PREFETCH = "leave it out: each process prefetches what its workers will need soon"
_SETTLED = "leave it out: an event is settled once its handler is done, and comes again if its process dies"
_URL = "give the URL where the train is connected: train.connect(url)"
_SCHEDULE = "a schedule is a function of its own: @train.every(…)"

_HINTS: Mapping[str, tuple[str, str]] = {
    # word: what a train says, what a handler says
    **dict.fromkeys(("retries", "max_retries", "retry", "retry_count", "num_retries"), (_ATTEMPTS, _ATTEMPTS)),
    **dict.fromkeys(("max_tries", "tries", "max_attempts", "max_deliver"), ("write attempts={}",) * 2),
    **dict.fromkeys(
        ("retry_delay", "default_retry_delay", "retry_backoff", "min_backoff", "delay"),
        ("write backoff=, the first pause before a retry in seconds",) * 2,
    ),
    **dict.fromkeys(
        ("retry_backoff_max", "max_backoff", "max_delay"), ("write backoff_most=, the longest pause in seconds",) * 2
    ),
    **dict.fromkeys(
        ("autoretry_for", "retry_for", "retry_when"),
        ("retry_on= is an option of a handler: @train.on(…, retry_on=…)", "write retry_on="),
    ),
    **dict.fromkeys(
        ("throws", "dont_autoretry_for", "no_retry_on"),
        ("dead_on= is an option of a handler: @train.on(…, dead_on=…)", "write dead_on="),
    ),
    **dict.fromkeys(
        ("timeout", "time_limit", "soft_time_limit", "task_time_limit", "job_timeout", "handler_timeout"),
        ("write handler_timeout=, in seconds", "write timeout=, in seconds"),
    ),
    **dict.fromkeys(
        ("concurrency", "max_workers", "worker_concurrency", "num_workers", "processes", "threads", "max_jobs"),
        (_WORKERS, _AT_A_TIME),
    ),
    **dict.fromkeys(("workers", "pool_size", "max_concurrency"), (_WORKERS, _AT_A_TIME)),
    **dict.fromkeys(
        ("prefetch", "prefetch_count", "prefetch_multiplier", "worker_prefetch_multiplier"), (_PREFETCH, _PREFETCH)
    ),
    **dict.fromkeys(("acks_late", "auto_ack", "ack", "ack_policy", "no_ack"), (_SETTLED, _SETTLED)),
    **dict.fromkeys(("queue", "queue_name", "topic", "topics", "channel_name", "routing_key"), (_TRAIN, _CHANNEL)),
    **dict.fromkeys(
        ("rate", "rate_limit", "throttle"),
        ('rate= is an option of a handler: @train.on(…, rate="20/s")', 'write rate="20/s"'),
    ),
    **dict.fromkeys(
        ("batch_size", "max_records", "batch"),
        ("batch= is an option of a handler: @train.on(…, batch={})", "write batch={}"),
    ),
    **dict.fromkeys(
        ("batch_timeout", "linger", "flush_interval", "max_wait"),
        ("within= is an option of a handler, with batch=", "write within=, in seconds, with batch="),
    ),
    **dict.fromkeys(
        ("maxlen", "max_length", "maxsize", "queue_size"),
        ("write limit=Volume({}): how many events a wagon takes", "limit=Volume({}) is a setting of the train"),
    ),
    **dict.fromkeys(
        ("visibility_timeout", "ack_wait"),
        ("write visibility=, in seconds", "visibility= is a setting of the train, in seconds"),
    ),
    **dict.fromkeys(("url", "broker", "broker_url", "backend", "dsn"), (_URL, _URL)),
    **dict.fromkeys(("cron", "schedule", "every", "crontab"), (_SCHEDULE, _SCHEDULE)),
}


def refusal(what: str, unknown: Mapping[str, object], known: Iterable[str], *, of_handler: bool) -> str:
    """Why these keywords are refused, with what to write instead if that is clear. `what`: a setting, or an option."""
    names, there = sorted(unknown), sorted(known)
    hints = [hint for name in names if (hint := _hint(name, unknown[name], there, of_handler=of_handler))]
    if len(hints) == len(names):
        return f"unknown {what} {'; '.join(hints)}"
    more = f" ({'; '.join(hints)})" if hints else ""
    return f"unknown {what} {', '.join(names)}{more}; there are: {', '.join(there)}"


def _hint(name: str, value: object, known: list[str], *, of_handler: bool) -> str:
    """What to write instead; empty if that is not clear."""
    if name.lower() in _HINTS:
        return f"{name}: {_filled(_HINTS[name.lower()][of_handler], value)}"
    close = nearest(name, known)
    return f"{name}: did you mean {close}=?" if close else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that this one is a slip of; empty if none is near."""
    return next(iter(get_close_matches(name.lower(), known, 1, 0.75)), "")


def doubted(names: Iterable[str], known: Iterable[str]) -> str:
    """Unknown names for a message, each with the known one that may be meant."""
    there = tuple(known)
    return ", ".join(f"{name} (did you mean {near}?)" if (near := nearest(name, there)) else name for name in names)


def _filled(hint: str, value: object) -> str:
    """The hint with the number that was given, if it is a plain one."""
    number = value if (type(value) is int or type(value) is float) and 0 <= value < 1e6 else None
    if hint is _ATTEMPTS:
        return hint.format(f": attempts={number + 1}" if isinstance(number, int) else "")
    text = value if type(value) is str and value.isidentifier() else "name"
    if hint is _CHANNEL:
        return hint.format(text)
    return hint.replace("{}", "N" if number is None else f"{number:g}")
