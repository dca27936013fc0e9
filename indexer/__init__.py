"""The store, the signatures and the nearest-neighbour index."""
