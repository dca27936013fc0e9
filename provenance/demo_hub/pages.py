"""Keyset pagination: a cursor names the last row of a page, and the next page begins after it.

As on the Hub, rows whose key changes between two pages are skipped or repeated.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from provenance.demo_hub.messages import Request, Response, json_response, refusal

Row = TypeVar("Row")
Key = tuple[str | int, str]


def cut(
    rows: Iterable[Row], key: Callable[[Row], Key], *, limit: int, after: Key | None, descending: bool = False
) -> tuple[list[Row], Key | None]:
    """One page, and the key of its last row if more rows follow.

    Args:
        rows: in any order.
        key: unique for each row.
        limit: rows on the page, at least 1.
        after: the last key of the page before, null for the first page.
        descending: largest key first.
    """
    if after is not None:
        rows = [row for row in rows if (key(row) < after if descending else key(row) > after)]
    ordered = sorted(rows, key=key, reverse=descending)
    return ordered[:limit], key(ordered[limit - 1]) if len(ordered) > limit else None


def cursor_key(request: Request, kind: type[str] | type[int]) -> Key | None:
    """The key that a request's cursor names, null for the first page. `kind` is the type of the sort key.

    Raises:
        Refusal: 400, the cursor is not valid.
    """
    cursor = request.value("cursor")
    if cursor is None:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor))
    except ValueError:
        key = None
    if not (isinstance(key, list) and len(key) == 2 and type(key[0]) is kind and isinstance(key[1], str)):
        raise refusal(400, "Invalid cursor")
    return key[0], key[1]


def page_response(request: Request, endpoint: str, rows: Sequence[Any], last: Key | None) -> Response:
    """A page as JSON, with an absolute Link to the next one unless `last` is null."""
    if last is None:
        return json_response(rows)
    cursor = base64.urlsafe_b64encode(json.dumps(last).encode()).decode()
    query = [(name, value) for name, value in request.query if name != "cursor"]
    url = f"{endpoint}{request.path}?{urlencode([*query, ('cursor', cursor)])}"
    return json_response(rows, {"Link": f'<{url}>; rel="next"'})
