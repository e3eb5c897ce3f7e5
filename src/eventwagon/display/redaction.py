"""The one redactor: what is shown or stored for people holds no password, token or key.

Two nets, one under the other. Values that a URL or an option named as secret are remembered (`learn`), and hidden
wherever they turn up. What looks like a secret is hidden too, for texts that come from other processes: passwords in
URLs, options named `password`, `token`, `sasl.password` and so on, keys of AWS, private keys, JSON web tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

_WORDS = (
    r"pass(?:word|wd|phrase)|(?<![a-z])pass(?![a-z])|pwd|secret|token(?!\.endpoint)|credential|jaas|signature|\bsig\b"
    r"|oauthbearer\.config|(?:access|account|api|private|sas|shared|signing)[_.-]?key|\.pem"
)
_NAME = re.compile(_WORDS, re.IGNORECASE)
_LEAST = 4
"""The least length of a value that is hidden everywhere. A shorter one would hide half of each sentence, and is hidden
only where it is named."""
_LONG = 8
_PASSES = 5
_MOST = 1000
"""Values that are remembered, the latest."""

_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://[^\s'\"<>`]+", re.IGNORECASE)
_AFTER = ").,:;!]}…"
"""What may follow a URL in a sentence."""
# `?secret=NAME` outside of other URLs is Kubernetes': the name of a Secret.
_GIVEN = re.compile(
    rf"((?!(?<=[?&])secret=)(?:{_WORDS})[\w.-]{{0,40}}(?:\s?=\s?|[\"']\s?:\s?))(\"[^\"]*\"|'[^']*'|[^\s,;&)\]}}\"']+)",
    re.IGNORECASE,
)
# After a colon or a blank it is a secret if it has a digit and something else in it, or nothing else follows; else it
# may be a sentence.
_SAID = re.compile(
    rf"((?:{_WORDS})[\w.-]{{0,40}}\s?:\s?|(?<![\w-])--?[\w-]{{0,40}}(?:{_WORDS})[\w-]{{0,40}}[ \t]+)"
    rf"(\"[^\"]*\"|'[^']*'|“[^”]{{0,200}}”|(?!\d+[\s,.;:)])[^\s,;&)\]}}\"']*\d[^\s,;&)\]}}\"']*"
    rf"|[^\s,;&)\]}}\"']+(?=[,;&)\]}}\"']|\s*$|\s*[\r\n]|\s+[\w.-]+\s?[:=]|\s+--))",
    re.IGNORECASE,
)
_AUTH = re.compile(r"([?&]auth(?:_?(?:key|params|data))?=)[^\s&'\"<>`]+", re.IGNORECASE)
_LOGIN = re.compile(r"(?<![\w.:@-])(?!mailto:)([\w.+-]{0,64}:)[^\s:@/'\"]{1,200}(?=@(?!sha\d+:)[\w\[.-])")
_ENCODED = re.compile(r"(%3A%2F%2F(?:(?!%3A|%40)\S){0,200}%3A)(?:(?!%40)\S){1,1000}(?=%40)", re.IGNORECASE)
_TORN = re.compile(
    r"([a-z][a-z0-9+.-]{0,30}://)([^\s/?#@:'\"<>`]*:)"
    r"((?:(?!://)[^@'\"<>`]){1,200}|(?:(?!://)[^@\s,]){1,200})(?=@[\w\[])",
    re.IGNORECASE,
)
"""A URL whose password has a blank, an end of line or a quote in it."""
# Programs' own options, as they are typed, or as a list of arguments.
_ARGUMENT = r"('[^'\n]*'|\"[^\"\n]*\"|[^\s'\"]+)"
_PORTS = r"(?!(?:[\d.]+:)?\d+:\d+(?:/\w+)?(?:[\s'\",]|$))"
_USER = re.compile(  # `--user 1000:1000` is of docker: the numbers of a user and a group
    r"((?<![^\s'\"(\[,])(?:-[uU]|--(?:proxy-)?user)[\s'\",=]{1,4}(?!\d+:\d+(?:[\s'\",;)]|$))[^\s:@/'\",=]{0,64}:)"
    r"(?!//|\\)[^\s'\"]+"
)
_USER_QUOTED = re.compile(
    r"((?<![^\s'\"(\[,])(?:-[uU]|--(?:proxy-)?user)(?:['\"]?,?\s|=)(?=['\"])(?:'(?=[^'\n]*')|\"(?=[^\"\n]*\"))"
    r"[^\s:@/'\",=]{0,64}:)(?!//|\\|\d+['\"])(?:\\.|[^'\"\n])+"
)
_CURL = re.compile(r"(\bcurl\b[^\n|]{0,200}?[\s'\"]-[a-zA-Z]{0,5}u\s?[^\s:@/'\",=]{1,64}:)(?!//|\\)[^\s'\"]+")
_MYSQL = re.compile(rf"(\b(?:mysql|mariadb|mycli|sshpass)[\w-]*\b[^\n|]{{0,200}}?[\s'\"]-p){_PORTS}{_ARGUMENT}")
_USER_AND = re.compile(rf"(\s-u\s?[\w.%-]{{1,64}}\s[^\n|]{{0,200}}?(?<=\s)-p)(?![\d.:]+(?:/\w+)?(?:\s|$)){_ARGUMENT}")
_ONE_MORE = re.compile(
    rf"(\b(?:sshpass\b['\",]{{0,2}}\s['\"]?-p|(?:mongo\w*|(?:redis|valkey)-cli)\b[^\n|]{{0,200}}?[\s'\"]-[ap])['\",]{{0,2}}\s)"
    rf"(?!-){_ARGUMENT}"
)
_HEADER = re.compile(r"(authorization[\"']?\s?[:=]\s?[\"']?(?:basic |bearer )?)[^\s,\"'}]+", re.IGNORECASE)
_BASIC = re.compile(r"\b([Bb]asic\s)(?=\S*[A-Z0-9=])[A-Za-z0-9+/]{8,}={0,2}(?![\w-])")
_SHAPE = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

_OPTIONS = (_USER_QUOTED, _USER, _CURL, _MYSQL, _USER_AND, _ONE_MORE)
_SHAPES = (*_OPTIONS, _GIVEN, _SAID, _AUTH, _LOGIN, _ENCODED, _HEADER, _BASIC)

_known: dict[str, None] = {}
_any_known: re.Pattern[str] | None = None


def redacted(text: str) -> str:
    """The text without the secrets in it. Idempotent."""
    for _ in range(_PASSES):  # what was hidden may let more be seen as part of it
        before, text = text, _redacted(text)
        if text == before:
            break
    return text


def _redacted(text: str) -> str:
    if _any_known is not None:
        text = _any_known.sub(HIDDEN, text)
    if "://" in text:
        text = _TORN.sub(_mended, text)
        text = _URL.sub(_shown_within, text)
    for shape in _SHAPES:
        text = shape.sub(lambda found: found[1] + HIDDEN, text)
    return _SHAPE.sub(HIDDEN, text)


def _mended(found: re.Match[str]) -> str:
    """`_URL` finds only those that are written as they should be."""
    scheme, user, rest = found.groups()
    word = re.split(r"[\s'\"<>`]", rest, maxsplit=1)[0]
    place = user + word.partition("/")[0].rstrip(".,:;!)")
    if word == rest or (_is_place(place) and not re.fullmatch(r"\d+\s\w[^\s@]*", rest)):
        return found[0]  # it is written so, or another word with an @ comes after its host and port
    return f"{scheme}{user}{HIDDEN}"


def shown(url: str) -> str:
    """A URL that may be shown: its user, host and options, with `***` for secrets. Raises nothing."""
    return redacted(_shown(url))


def login_of(url: str) -> str:
    """The user and password of this URL as they were written, in part or whole empty. Raises nothing."""
    return _parts(url)[1]


def is_secret(name: str) -> bool:
    """Whether an option of this name holds a secret."""
    return bool(_NAME.search(name))


def learn(url: str) -> None:
    """Remember the secrets of this URL: they are hidden wherever they turn up. Idempotent; raises nothing."""
    for value in _secrets(url):
        _remember(value)


def learn_options(options: Mapping[str, object]) -> None:
    """The same for options of a driver, by their names."""
    for name, value in options.items():
        if is_secret(name) and isinstance(value, str):
            _remember(value)


def _remember(value: str) -> None:
    global _any_known
    forms = {value, unquote(value), unquote_plus(value), *value.splitlines()}
    forms |= {form(each) for each in tuple(forms) for form in (quote, _quoted, quote_plus, repr, ascii)}
    forms = {each.strip("'\"") if each[:1] == each[-1:] and each[:1] in "'\"" else each for each in forms}
    new = {each for each in forms if len(each) >= _LEAST and each.strip("*")} - _known.keys()
    if not new:
        return
    _known.update(dict.fromkeys(new))
    while len(_known) > _MOST:
        del _known[next(iter(_known))]
    _any_known = re.compile("|".join(map(_pattern, sorted(_known, key=len, reverse=True))))


def _pattern(value: str) -> str:
    """A short value is hidden only as a whole word: `test` in `latest` is not hidden."""
    before, after = (r"(?<!\w)", r"(?!\w)") if len(value) < _LONG else ("", "")
    return before * (value[0].isalnum()) + re.escape(value) + after * (value[-1].isalnum())


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _shown_within(found: re.Match[str]) -> str:
    url = found[0].rstrip(_AFTER)
    return _shown(url) + found[0][len(url) :]


# --- the parts of a URL ---------------------------------------------------------------------


def _shown(url: str) -> str:
    scheme, login, place, query = _parts(url)
    if login:
        user, colon, _ = login.partition(":")
        login = f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"
    return f"{scheme}{login}{_place(place)}{''.join(_options(scheme, query))}"


def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme with its slashes, user and password, host and path, query with its question mark. A password that was not
    percent-encoded as it should be is taken as a whole."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        head, mark, query = url.partition("?")
        login, at, place = head.rpartition("@")
        if at and not re.search(r"\s", login):  # the scheme was forgotten, or a slash
            slip = re.match(r"(?:[a-z][a-z0-9+.-]*(?::/|//))?", login, re.IGNORECASE)
            scheme = slip[0] if slip else ""
            return scheme, login[len(scheme) :], place, mark + query
        scheme, colon, rest = url.partition(":")
        head, mark, query = rest.partition("?")
        return scheme + colon, "", head, mark + query
    head, mark, query = rest.partition("?")
    authority = re.split(r"[/#]", head, maxsplit=1)[0]
    is_cut = "@" in rest and "@" not in authority and not _is_place(authority)
    if is_cut or "@" in re.split(r"[=&]", query, maxsplit=1)[0]:
        head, mark, query = rest, "", ""  # a / ? or # in the password: all up to the last @ may be a part of it
    login, at, place = head.rpartition("@")
    if at and not mark and "?" in place:
        place, mark, query = place.partition("?")
    return scheme + slashes, login if at else "", place, mark + query


def _is_place(authority: str) -> bool:
    """Hosts, each with a number as its port, a placeholder of a number, or none; a bracket may have been forgotten."""
    hosts = (re.sub(r"^\[(?:[^]]*\]|[0-9a-f:.]*$)", "", host) for host in authority.split(","))
    return all(re.fullmatch(r"[^:]*(:(\d*|port|\{\w+\}))?", host) for host in hosts)


def _place(place: str) -> str:
    """Host and path; a port that is no number may be a password, with the host left out."""
    authority, slash, path = place.partition("/")
    if _is_place(authority):
        return place
    return f"{authority.partition(':')[0]}:{HIDDEN}{slash}{path}"


def _options(scheme: str, query: str) -> Iterator[str]:
    is_before = False  # the option before it is secret: what has no name may be the rest of it
    for piece in re.split(r"([?&;])", query):
        name, equals, value = piece.partition("=")
        if piece in ("", "?", "&", ";"):
            yield piece
        elif not equals:
            yield HIDDEN if is_before else piece
        elif _holds_secret(scheme, name):
            is_before = True
            yield f"{name}={HIDDEN}"
        else:
            is_before = False
            inner = unquote(value)
            yield f"{name}={_shown(inner)}" if "://" in inner else piece


def _holds_secret(scheme: str, name: str) -> bool:
    # of Kubernetes, `secret` is the name of a Secret
    return is_secret(unquote_plus(name)) and not (scheme.startswith("kubernetes:") and name == "secret")


def _secrets(url: str) -> Iterator[str]:
    scheme, login, place, query = _parts(url)
    user, colon, password = login.partition(":")
    yield password if colon else user
    if re.search(r"[/?#@]", password):  # drivers would take it apart, and show the parts
        yield from re.split(r"[/?#@:]", password)
    authority = place.partition("/")[0]
    if not _is_place(authority):
        yield authority.partition(":")[2]
    is_before = False
    for piece in re.split(r"[?&;]", query):
        name, equals, value = piece.partition("=")
        if equals and _holds_secret(scheme, name):
            is_before = True
            yield value
        elif equals:
            is_before = False
            if "://" in (inner := unquote(value)):
                yield from _secrets(inner)
        elif is_before:
            yield piece
