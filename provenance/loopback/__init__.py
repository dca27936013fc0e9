"""A hub on loopback addresses: what a crawler meets in production, served from a folder or from arithmetic.

    from provenance.loopback import LoopbackHub, folder_repos
    with LoopbackHub(folder_repos(Path("models"))) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint  # before huggingface_hub is imported

Tests, benchmarks and the demo run against it. It speaks HTTP on two ports, one for the hub and one for the content
delivery network (CDN) that large files come from, so that origins differ as they do in production.
"""

from provenance.loopback.endless import EndlessHub
from provenance.loopback.faults import FAULTS, Fault, draw
from provenance.loopback.faulty import FaultyHub
from provenance.loopback.files import DiskFile, HubFile, MemoryFile
from provenance.loopback.generated import LLAMA_7B, LLAMA_70B, QWEN3_30B_A3B, Geometry, generated_repo
from provenance.loopback.messages import Exchange, Request, Response
from provenance.loopback.quotas import Quotas
from provenance.loopback.repos import HubRepo, folder_repos
from provenance.loopback.server import LoopbackHub

__all__ = [
    "FAULTS",
    "LLAMA_7B",
    "LLAMA_70B",
    "QWEN3_30B_A3B",
    "DiskFile",
    "EndlessHub",
    "Exchange",
    "Fault",
    "FaultyHub",
    "Geometry",
    "HubFile",
    "HubRepo",
    "LoopbackHub",
    "MemoryFile",
    "Quotas",
    "Request",
    "Response",
    "draw",
    "folder_repos",
    "generated_repo",
]
