"""Names that people write in many ways: ids of repos, and licenses. Compared here, stored as written."""

from __future__ import annotations

import re

from provenance.schemas.identity import is_repo_id

_HIDDEN = re.compile(r"(?:^|/)\.")
_HUB = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://", re.IGNORECASE)
_INSIDE = re.compile(r"/(?:tree|blob|resolve|raw|commit|discussions|edit)(?:/.*)?$")
_TAIL = re.compile(r"[?#].*$|@[\w./-]+$")
_LICENSE_PAGE = re.compile(
    r"https?://(?:www\.)?(?:choosealicense\.com/licenses|spdx\.org/licenses|opensource\.org/licenses?)/([\w.+-]+?)"
    r"(?:\.(?:html?|txt))?/?",
    re.IGNORECASE,
)
_NO_LICENSE = frozenset({"other", "unknown", "none", ""})


def repo_named(text: str) -> str | None:
    """The repo id that a text names, as written; null where it names none.

    It may be the address of a page on the hub, have a revision (`owner/name@main`), or blanks around it.
    """
    text = text.strip()
    name, is_page = _HUB.subn("", text, count=1) if _HUB.match(text) else (text, 0)
    name = _TAIL.sub("", name)
    if is_page:
        name = _INSIDE.sub("", name.removeprefix("models/"))
    name = name.rstrip("/")
    return name if is_repo_id(name) and not _HIDDEN.search(name) else None


def repo_key(repo_id: str) -> str:
    """What two spellings of one repo id have in common: the hub ignores case."""
    return repo_id.lower()


def short_key(repo_id: str) -> str:
    """The key of a repo id without its owner, as the hub's oldest repos were called."""
    return repo_key(repo_id).rpartition("/")[2]


def renaming(old: str, new: str) -> str:
    """The message of an outcome that says that a repo has another id now."""
    return f"{old}: is called {new} now"


def renamed_to(message: str) -> str | None:
    """The new id in such a message; null where it is another one."""
    match = re.fullmatch(r".+: is called (\S+) now", message)
    return match[1] if match else None


def license_key(text: str | None) -> str | None:
    """What two spellings of one license, or of several in any order, have in common.

    Null where none is known, as for `other`.
    """
    keys = sorted(key for part in (text or "").split(",") if (key := _one_license(part)) not in _NO_LICENSE)
    return ",".join(dict.fromkeys(keys)) or None


def _one_license(text: str) -> str:
    page = _LICENSE_PAGE.fullmatch(text.strip())
    return re.sub(r"[\s_]+", "-", (page[1] if page else text).strip().lower())


def licenses_differ(a: str | None, b: str | None) -> bool | None:
    """Whether two licenses differ; null where one of them is not known."""
    keys = license_key(a), license_key(b)
    return None if None in keys else keys[0] != keys[1]
