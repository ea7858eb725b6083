"""The page at `/`: three files, which load nothing from elsewhere."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
NAMES = ("", "page.css", "page.js")
"""Paths below `/`; whoever has no key may see them, since they hold nothing."""


async def show_page(request: Request) -> Response:
    """Answer with one of the files."""
    name = request.url.path.lstrip("/") or "index.html"
    content = (files("ringworld.serving") / "page" / name).read_bytes()
    return Response(content, headers={**_HEADERS, "Content-Type": _TYPES[name]})
