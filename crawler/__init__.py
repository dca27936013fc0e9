"""From a hub or a folder to fingerprints: the crawler knows bytes."""
