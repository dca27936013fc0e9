"""Weights read anew for `--deep`: from a folder, or from the hub at the commit that the store holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from provenance.crawler.anchors import anchor_tokens, common_anchors, read_tokenizer, spread_anchors
from provenance.crawler.engine.tasks import CrawlTask, local_tasks, named_tasks
from provenance.crawler.headers import read_headers
from provenance.crawler.product_plan import ProductPlan, plan_products, vocabulary
from provenance.crawler.products import read_products
from provenance.query.engine import judge
from provenance.query.evidence.pair import UNKNOWN_TOKENS
from provenance.query.origin import origin
from provenance.resolve import is_path
from provenance.schemas.enums import Source
from provenance.schemas.errors import CheckpointError, ProvenanceError, SourceError, UnknownModelError, WeightsError
from provenance.schemas.products import ANCHORS, DeepReading, Product, ProductSketch
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import ResolvedRoles

if TYPE_CHECKING:
    from provenance.crawler.engine.options import CrawlOptions
    from provenance.crawler.hub.transport import HubTransport
    from provenance.indexer.dossier import Dossier
    from provenance.indexer.store.store import Store
    from provenance.query.catalogue import Catalogue
    from provenance.query.engine import Judgement

MAX_CANDIDATES = 5
"""Candidates of a query that are read: those that come first, are no relatives yet, and have no stored products."""

REMOTE_LAYERS = 16
"""Layers of a hub's model that are read, spread evenly: 16 that agree have p = 16^-16."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint ready to be read.

    Attributes:
        reader: of its files; open as long as the `Weigher` that opened it.
        resolved: its tensors with their roles.
        tokenizer: its `tokenizer.json`, null without one.
        remote: its bytes come over a network.
    """

    reader: TensorReader
    resolved: ResolvedRoles
    tokenizer: Mapping[str, Any] | None
    remote: bool


class Weigher:
    """Opens checkpoints and reads what no inner disguise changes. Use as a context manager, which closes them."""

    def __init__(self, store: Store, options: CrawlOptions | None = None) -> None:
        """Read checkpoints of `store`, folders, and repos of the hub that `options` name."""
        self._store, self._endpoint = store, options.endpoint if options else None
        self._open = ExitStack()
        self._transport: HubTransport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def open(self, dossier: Dossier, name: str | None = None) -> Weights:
        """A checkpoint whose headers and config have been read, and no weights.

        Args:
            dossier: of the checkpoint, stored or not.
            name: what the user called it.

        Raises:
            SourceError: it was crawled from a folder, and `name` is none.
            CheckpointError: it cannot be read, or is no more where it was.
        """
        meta = dossier.meta
        for task in self._tasks(dossier, name):
            for listed in task.checkpoints():
                if (listed.identity.subfolder, listed.identity.variant) != (meta.subfolder, meta.variant):
                    continue
                complete, reader = self._open.enter_context(task.open(listed))
                # A listing has a part of the config only, without the numbers of heads.
                resolved = read_headers(reader, replace(complete, config=None)).resolved
                beside = PurePosixPath(complete.config_file or complete.weight_files[0]).with_name("tokenizer.json")
                remote = task.source is Source.HUB
                return Weights(reader, resolved, read_tokenizer(reader, str(beside)), remote)
        raise UnknownModelError(f"{meta.checkpoint_id}: its weights are no more where they were; crawl it again")

    def read(
        self, model: Weights, others: Sequence[Weights | str], before: Callable[[int], object] | None = None
    ) -> list[DeepReading]:
        """Read the products of a model beside those of others, each plan of the model once.

        Args:
            model: the model asked about.
            others: candidates, or why one cannot be read.
            before: told once how many bytes of weights will be read, before the first of them is; not if none are.

        Returns:
            one reading for each of `others`; a candidate that cannot be compared has a note that says why.

        Raises:
            CheckpointError: the model cannot be read.
        """
        plans = [other if isinstance(other, str) else _plans(model, other) for other in others]
        own = {_key(plan[0]): plan[0] for plan in plans if not isinstance(plan, str)}
        if before is not None and own:
            before(sum(p.n_bytes for p in own.values()) + sum(p[1].n_bytes for p in plans if not isinstance(p, str)))
        sketches: dict[object, ProductSketch] = {}
        readings = []
        for other, plan in zip(others, plans, strict=True):
            if isinstance(plan, str) or isinstance(other, str):
                readings.append(DeepReading(None, None, note=str(plan)))
                continue
            cost = -model.reader.bytes_read - other.reader.bytes_read
            mine, theirs = plan
            if _key(mine) not in sketches:
                sketches[_key(mine)] = read_products(model.reader, mine)
            a, note = sketches[_key(mine)], _caveat(model, other)
            b = None
            try:
                b = read_products(other.reader, theirs)
                note = "; ".join(filter(None, (note, *dict.fromkeys((*a.notes, *b.notes)))))
            except CheckpointError as error:
                note = str(error)
            cost += model.reader.bytes_read + other.reader.bytes_read
            readings.append(DeepReading(a, b, cost, note))
        return readings

    def examine(
        self, found: Judgement, name: str, catalogue: Catalogue, before: Callable[[int], object] | None = None
    ) -> Judgement:
        """Judge a model by the products of its candidates too, and read what of them is not stored.

        The model itself is read where the products of others are stored: they are searched with it. Then it and its
        best candidates that are no relatives, and whose products are not known, are read.

        Args:
            found: the answer without.
            name: what the user called the model.
            catalogue: what was searched.
            before: as for `read`; told of the model by itself first, and of no bytes where all is stored.

        Raises:
            SourceError, CheckpointError: as `open`, of the model; a candidate that cannot be read has a note instead.
        """
        model = None
        if found.model.products is None and found.model.has_tokens and catalogue.has_products:
            model = self.open(found.model, name)
            if (own := self._sketch(model, before)) is not None:
                found = judge(replace(found.model, products=own), catalogue)
        if not (examined := found.undecided(MAX_CANDIDATES)):
            if before is not None and model is None:
                before(0)
            return found
        try:
            model = model or self.open(found.model, name)
        except ProvenanceError as error:
            if found.model.products is None:
                raise
            # Compared with all others already: those that are left say why they are not.
            return found.deepened(examined, [DeepReading(None, None, note=str(error))] * len(examined))
        return found.deepened(examined, self.read(model, [self._opened(a.pair.b.dossier) for a in examined], before))

    def _sketch(self, model: Weights, before: Callable[[int], object] | None) -> ProductSketch | None:
        """The products that a full crawl would store of a model, of one on a network those of attention alone."""
        if (n_tokens := vocabulary(model.resolved)) < ANCHORS:
            return None
        products = [Product.VO] if model.remote else list(Product)
        plan = plan_products(model.resolved, spread_anchors(n_tokens), products=products)
        if before is not None:
            before(plan.n_bytes)
        return replace(read_products(model.reader, plan), tokens=anchor_tokens(model.tokenizer, plan.anchors))

    def _opened(self, candidate: Dossier) -> Weights | str:
        try:
            return self.open(candidate)
        except ProvenanceError as error:
            return str(error)

    def _tasks(self, dossier: Dossier, name: str | None) -> Iterator[CrawlTask]:
        meta = dossier.meta
        if name is not None and (is_path(name) or (meta.fingerprint_id is None and Path(name).exists())):
            return local_tasks(Path(name))
        if meta.fingerprint_id is None:
            return named_tasks(self._connected(), [name or meta.repo_id])
        with self._store.connect() as connection:
            source, commit = origin(connection, meta.fingerprint_id)
        if source is Source.LOCAL:
            raise SourceError(
                f"{meta.checkpoint_id}: --deep reads the weights anew, and this one was crawled from a local folder, "
                "whose place the store does not keep; name the folder instead (provenance compare --deep ./a ./b)"
            )
        return named_tasks(self._connected(), [f"{meta.repo_id}@{commit or meta.revision}"])

    def _connected(self) -> HubTransport:
        from provenance.crawler.hub.api import connect

        if self._transport is None:
            self._transport = connect(self._endpoint)
            self._open.callback(self._transport.close)
        return self._transport


def _plans(model: Weights, other: Weights) -> tuple[ProductPlan, ProductPlan] | str:
    """What is read of both; or why they cannot be compared.

    Of two folders all layers and both products. Where bytes come over a network and depths agree, one product of
    `REMOTE_LAYERS` layers: attention's is the smaller, and so many layers prove as much as any store can ask for.
    """
    sizes = vocabulary(model.resolved), vocabulary(other.resolved)
    anchors = common_anchors(sizes, (model.tokenizer, other.tokenizer))
    if anchors is None:
        return "the two share too few tokens, and products are compared between tokens"
    pair = list(zip((model.resolved, other.resolved), anchors, strict=True))
    try:
        a, b = (plan_products(resolved, ids) for resolved, ids in pair)
        layers, theirs = ([layer for layer, product in plan.terms if product is Product.VO] for plan in (a, b))
        if (model.remote or other.remote) and a.layers == b.layers and layers == theirs and layers:
            step = max(1.0, len(layers) / REMOTE_LAYERS)
            chosen = [layers[int(i * step)] for i in range(min(REMOTE_LAYERS, len(layers)))]
            a, b = (plan_products(resolved, ids, layers=chosen, products=[Product.VO]) for resolved, ids in pair)
    except WeightsError as error:
        return str(error)
    return a, b


def _key(plan: ProductPlan) -> object:
    return plan.anchors, tuple(plan.terms)


def _caveat(a: Weights, b: Weights) -> str:
    known = a.tokenizer is not None and b.tokenizer is not None
    return "" if known else UNKNOWN_TOKENS
