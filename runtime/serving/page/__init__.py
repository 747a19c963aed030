"""The web page at GET `/`: drop images, type a query, see the ranking and why."""

from trine.runtime.serving.page.routes import page_routes

__all__ = ["page_routes"]
