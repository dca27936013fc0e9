"""Candidates, evidence, verdicts and lineage: the query knows claims. Works offline, from the store alone."""
