"""What --verbose prints: the log, without secrets."""

from __future__ import annotations

import logging

import pytest

from provenance.output.messages import SafeFormatter


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("GET https://cdn.example.org/a/b?Signature=abc&Expires=1 200", "GET https://cdn.example.org/a/b?… 200"),
        ('"https://me:hidden@proxy:80/x" refused', '"https://…proxy:80/x" refused'),
        ("https://huggingface.co/org/name", "https://huggingface.co/org/name"),
        ("a name\x1b[31m of a stranger", "a name�[31m of a stranger"),
    ],
)
def test_a_line_of_the_log_has_no_secret(message: str, line: str) -> None:
    record = logging.LogRecord("httpx", logging.INFO, "", 1, message, None, None)
    assert SafeFormatter("%(message)s").format(record) == line
