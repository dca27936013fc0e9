"""A hub on loopback addresses that serves a folder in the way the real Hub serves repos.

    from provenance.demo_hub import LoopbackHub, folder_repos
    with LoopbackHub(folder_repos(Path("models"))) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint  # before huggingface_hub is imported

`provenance demo` and the tests run against it. It speaks HTTP on two ports, one for the hub and one for the content
delivery network (CDN) that large files come from, so that origins differ as they do in production.
"""

from provenance.demo_hub.files import DiskFile, HubFile, MemoryFile
from provenance.demo_hub.messages import Exchange, Request, Response
from provenance.demo_hub.repos import HubRepo, folder_repos
from provenance.demo_hub.server import LoopbackHub

__all__ = [
    "DiskFile",
    "Exchange",
    "HubFile",
    "HubRepo",
    "LoopbackHub",
    "MemoryFile",
    "Request",
    "Response",
    "folder_repos",
]
