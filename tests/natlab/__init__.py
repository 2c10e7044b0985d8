"""A NAT lab in network namespaces: routers of every kind, hosts behind them, and an internet that leads nowhere.

A test file takes `pytestmark = [pytest.mark.lab, skip_without_lab]`. A lab costs some 10 ms and a host behind a router of its
own 50 ms, so one lab can serve a file (a fixture of module scope) whose tests make routers of their own; what disturbs all,
such as `lose`, wants a lab of its own."""

from .kinds import Kind
from .lab import Lab
from .machines import Host, Router
from .needs import skip_without_lab
from .netns import LabError

__all__ = ["Host", "Kind", "Lab", "LabError", "Router", "skip_without_lab"]
