"""A classifier over HTTP, on FastAPI and uvicorn."""

from lib.delivery.serving.server import serve

__all__ = ["serve"]
