"""Products of the layers' matrices, stored or read anew: what no inner disguise changes (`statistics.products`)."""

from __future__ import annotations

from provenance.query.evidence.pair import Pair
from provenance.query.statistics.products import ProductAgreement
from provenance.query.statistics.significance import to_p
from provenance.schemas.results import Evidence

KIND = "products"


def measure(pair: Pair) -> Evidence | None:
    """Mean correlation of corresponding layers, in the product that agrees more; null where nothing is known.

    The p-value is that of as many layers agreeing best with their own, times the two products.
    Without a value it says in its note why nothing could be compared.
    """
    read, match = pair.reading or pair.stored, pair.products
    if read is None:
        return None
    cost = f"{read.bytes_read:,} bytes read" if read.bytes_read else ""
    if match is None or match.best is None:
        return Evidence(KIND, None, None, None, 0, _note(read.note or "no layers that correspond", cost))
    best = match.best
    found = _note(_told("vo", match.vo), _told("fu", match.fu), cost, read.note)
    return Evidence(KIND, best.value, to_p(match.log10_p), match.log10_p, best.layers, found)


def _told(name: str, found: ProductAgreement | None) -> str:
    return f"{name}: {found.agreeing} of {found.layers} layers agree best with their own" if found else ""


def _note(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
