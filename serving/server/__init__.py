"""The embedded Triton server: finding one, starting and stopping it, and what this machine lacks for it."""

from .installation import TritonInstallation, find_triton
from .ports import Ports, ServerUrls
from .process import TritonServer

__all__ = ["Ports", "ServerUrls", "TritonInstallation", "TritonServer", "find_triton"]
