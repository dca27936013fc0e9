"""Lines of evidence: what is measured of a pair of checkpoints, one module a line. `registry` lists them."""
