"""The engine of a crawl: what there is to crawl, who works on it, and what becomes of the results."""
