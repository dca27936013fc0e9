"""Which stored repo a name means that a card or a user wrote: another case, an old name, a name without its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from provenance.indexer.dossier import Dossier
from provenance.schemas.naming import repo_key, repo_named

_MOST_RENAMES = 8


class StoredNames:
    """The names of the repos of one store."""

    def __init__(self, repos_with: Callable[[str, str], Iterable[str]], renamed: Mapping[str, str]) -> None:
        """Set up.

        Args:
            repos_with: the repo ids of the store that have a key, of the kind `alias` (`schemas.naming.repo_key`) or
                `short` (`schemas.naming.short_key`).
            renamed: the new id of repos that a hub redirected, by the key of the old one.
        """
        self._repos_with, self._renamed = repos_with, renamed

    def stored(self, name: str) -> str | None:
        """The id of the stored repo that a name means; null if none does, or if several could."""
        key = repo_key(repo_named(name) or name)
        for _ in range(_MOST_RENAMES):
            found = set(self._repos_with("alias", key))
            if found:
                return name if name in found else min(found) if len(found) == 1 else None
            if key not in self._renamed:
                break
            key = repo_key(self._renamed[key])
        found = set(self._repos_with("short", key)) if "/" not in key else set()
        return found.pop() if len(found) == 1 else None

    def joined(self, dossier: Dossier) -> Dossier:
        """A checkpoint whose declared parents have the ids under which they are stored, each once."""
        declared = dossier.meta.declared_parents
        if not declared:
            return dossier
        ids = dict.fromkeys(self.stored(name) or name for name in declared)
        parents = tuple(name for name in ids if repo_key(name) != repo_key(dossier.repo_id))
        return (
            dossier if parents == declared else replace(dossier, meta=replace(dossier.meta, declared_parents=parents))
        )
