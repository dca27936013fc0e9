"""The engine of a crawl, in which data flows one way: request -> frontier -> worker -> sink.

A request becomes tasks; the frontier decides which of them are to be done, by a `schemas.protocols.CrawlHistory`; the
worker turns a task into outcomes and fingerprints; the engine hands those to a `schemas.protocols.FingerprintSink`.
"""
