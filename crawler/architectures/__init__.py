"""Tensor names, shapes and, only where they do not suffice, a config -> what every tensor does."""

from crawler.architectures.resolve import needs_config, resolve_roles
from crawler.architectures.rows import rows_index

__all__ = ["needs_config", "resolve_roles", "rows_index"]
