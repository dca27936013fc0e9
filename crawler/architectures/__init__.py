"""The role of every tensor, from names and shapes, and from a config only if these do not suffice."""

from provenance.crawler.architectures.resolve import read_names, resolve_roles
from provenance.crawler.architectures.rows import rows_index

__all__ = ["read_names", "resolve_roles", "rows_index"]
