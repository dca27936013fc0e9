"""Candidates, evidence, verdicts and lineage. Works offline, from the store alone."""
