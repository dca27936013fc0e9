"""The store, the signatures and the nearest-neighbour index: the indexer knows numbers."""
