"""Lines of evidence: measures of a pair of checkpoints, one module per line. `registry` lists them."""
