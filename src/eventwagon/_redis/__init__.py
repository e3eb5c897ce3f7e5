"""What the Redis broker and the Redis registry share: the URL, connections, scripts, the bell, errors. Private."""

from __future__ import annotations

from .bell import Bell
from .client import Client, Script, pack
from .errors import Lost, NotSent, explain
from .server import Server
from .wire import Answers

__all__ = ["Answers", "Bell", "Client", "Lost", "NotSent", "Script", "Server", "explain", "pack"]
