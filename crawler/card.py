"""The few keys of a model card that count here, read from a README.md however it is written.

Front matter is YAML between two lines `---`. Much of it is not: a colon in a title, a tab, an end that is missing. So
the lines of each wanted key are cut out and parsed by themselves, and words are taken from lines that do not parse.
What is left unread is said in a note. The input is untrusted.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

FRONT_MATTER_LIMIT = 4 * 1024 * 1024
"""Maximum number of bytes read of a README.md: results of benchmarks can make front matter long."""

KEYS = ("license", "license_name", "base_model", "base_model_relation")

_OPEN = re.compile(r"\A(?>\s+|<!--.*?-->)*+^---[ \t]*\r?\n", re.MULTILINE | re.DOTALL)
_CLOSE = re.compile(r"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)
_ANY_KEY = re.compile(r"^[\w-]+[ \t]*:(?:\s|$)", re.MULTILINE)
_BLOCK = re.compile(r"^(?P<key>[\w-]+)[ \t]*:(?P<value>(?=\s|$).*(?:\n(?:[ \t]|-[ \t]|[ \t]*$).*)*)", re.MULTILINE)
_WORD = re.compile(r"[\w./:@+-]*\w[\w./:@+-]*", re.ASCII)
_LINK = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([\w-][\w.-]*/[\w-][\w.-]*)", re.ASCII)
_NOT_MODELS = frozenset({"datasets", "spaces", "docs", "papers", "blog", "collections", "learn", "join", "settings"})
_NULL = ("", "~", "null")
_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Card:
    """What a README.md says.

    Attributes:
        values: by key, of `KEYS`: text, or lists and objects of text.
        unread: keys whose value could not be read at all; all of them where the front matter is none.
        notes: what was wrong with it, in words.
        links: repos of the hub that its text links to.
    """

    values: Mapping[str, object]
    unread: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def read_card(readme: bytes) -> Card:
    """Read a README.md; of a longer one, the first `FRONT_MATTER_LIMIT` bytes."""
    encoding = "utf-16" if readme.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = readme[:FRONT_MATTER_LIMIT].decode(encoding, "replace").replace("\r\n", "\n")
    opened = _OPEN.match(text)
    if opened is None:
        return Card({}, links=_links(text))
    closed = _CLOSE.search(text, opened.end())
    front = text[opened.end() : closed.start() if closed else len(text)]
    body = text[closed.end() :] if closed else ""
    if not _ANY_KEY.search(front):
        if closed is None or not _content(front):
            return Card({}, links=_links(text))  # a ruled line, or nothing between two of them
        return Card({}, frozenset(KEYS), ("card: its front matter is no YAML of keys and values",), _links(body))
    values, unread, notes = dict[str, object](), set[str](), []
    if closed is None:
        notes.append("card: its front matter has no end")
    blocks = {match["key"].lower().replace("-", "_"): match["value"] for match in _BLOCK.finditer(front)}
    for key in KEYS:  # of a key that comes twice the last value counts, as in YAML
        if key not in blocks:
            continue
        value, broken = _value(blocks[key])
        if broken:
            notes.append(f"card: `{key}` is broken YAML" + ("" if value is None else ", and was read word by word"))
            if value is None:
                unread.add(key)
        if value is not None:
            values[key] = value
    return Card(values, frozenset(unread), tuple(notes), _links(body))


def _value(text: str) -> tuple[object, bool]:
    """The value of a key, null where there is none; and whether its lines were no YAML."""
    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        # The base loader supports neither tags nor merge keys, which can expand without bound, and keeps `no` as text.
        (value,) = yaml.load(f"key:{text}\n", Loader=yaml.BaseLoader).values()
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):  # the last two from escapes like `\\UFFFFFFFF`
        first = text.partition("\n")[0]
        text = first if first.strip() and first.strip()[0] not in "[{|>" else text[:_LONGEST]
        lines = re.sub(r"(?:^|\s)#.*", "", text, flags=re.MULTILINE).replace("\\", " ")
        return [word for word in _WORD.findall(lines) if word.strip(".-:/")] or None, True
    return (None if isinstance(value, str) and value.strip().lower() in _NULL else value), False


def _content(front: str) -> str:
    return re.sub(r"^\s*#.*$", "", front, flags=re.MULTILINE).strip()


def _links(text: str) -> tuple[str, ...]:
    found = (name.rstrip(".") for name in _LINK.findall(text))
    return tuple(dict.fromkeys(name for name in found if name.partition("/")[0].lower() not in _NOT_MODELS))
