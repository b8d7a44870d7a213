"""The gateway: speaks HTTP."""

from junctor.gateway.app import Gateway
from junctor.gateway.serving import serve, serve_async

__all__ = ["Gateway", "serve", "serve_async"]
