"""Names that people write in many ways: ids of repos, and licenses. Compared here, stored as written."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from provenance.schemas.identity import is_repo_id

_HIDDEN = re.compile(r"(?:^|/)\.")
_HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
_OTHER_PAGES = ("datasets", "spaces", "docs", "papers", "collections")
_AT_REVISION = ("tree", "blob", "resolve", "raw", "commit")
_INSIDE = (*_AT_REVISION, "discussions", "edit")
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
    page = hub_page(text)
    name = page[0] if page else _TAIL.sub("", text.strip()).rstrip("/")
    return name if is_repo_id(name) and not _HIDDEN.search(name) else None


def hub_page(text: str, endpoint: str = "") -> tuple[str, str] | None:
    """The repo id and the revision in the address of a page on the hub; null where the text is no such address.

    Args:
        text: with or without its scheme; `hf://` counts too.
        endpoint: address of a hub besides the public one.

    Returns:
        the id is empty if the page is no model's, the revision if it is the main one.
    """
    text = text.strip()
    try:
        address = urlsplit(text.replace("hf://", "https://hf.co/", 1) if "://" in text else f"https://{text}")
        own = urlsplit(endpoint).netloc
    except ValueError:
        return None
    if address.scheme not in ("http", "https") or address.netloc.lower() not in {*_HUBS, own.lower()} - {""}:
        return None
    parts = [unquote(part) for part in address.path.split("/") if part]
    parts = parts[1:] if parts[:1] == ["models"] else parts
    if not parts or parts[0] in _OTHER_PAGES:
        return "", ""
    end = next((place for place, part in enumerate(parts[:3]) if place and part in _INSIDE), len(parts[:2]))
    name, at, revision = "/".join(parts[:end]).partition("@")
    if parts[end : end + 1] and parts[end] in _AT_REVISION:
        at, revision = "@", "".join(parts[end + 1 : end + 2])
    return name, revision if at and revision != "main" else ""


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
