"""Tensor names, shapes and, only where they do not suffice, a config -> what every tensor does."""

from crawler.architectures.resolve import read_names, resolve_roles
from crawler.architectures.rows import rows_index

__all__ = ["read_names", "resolve_roles", "rows_index"]
