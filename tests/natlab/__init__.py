"""A NAT lab in network namespaces: routers of every kind, hosts behind them, and an internet that leads nowhere."""

from .kinds import Kind
from .lab import Host, Lab, Router
from .needs import skip_without_lab
from .netns import LabError

__all__ = ["Host", "Kind", "Lab", "LabError", "Router", "skip_without_lab"]
