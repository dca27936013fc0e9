"""Tensor names, shapes and, only where they do not suffice, a config -> what every tensor does."""

from provenance.crawler.architectures.resolve import read_names, resolve_roles
from provenance.crawler.architectures.rows import rows_index

__all__ = ["read_names", "resolve_roles", "rows_index"]
