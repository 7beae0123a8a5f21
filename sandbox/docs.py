"""`make docs`: serves dbt's documentation of the last build on this machine."""

import functools
import http.server
import os
import sys
from pathlib import Path

from rich.console import Console

DEFAULT_PORT = 8080


class _Docs(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        # dbt's page reads nothing from other hosts, and tells them nothing.
        self.send_header(
            "Content-Security-Policy", "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
        )
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> int:
    """Serve until Ctrl-C; returns the exit code."""
    target = Path(os.environ.get("DBT_TARGET_PATH") or "target")
    port = os.environ.get("DOCS_PORT") or str(DEFAULT_PORT)
    if not (target / "catalog.json").exists():
        return _fail("there are no docs yet: run `make demo` first")
    if not port.isdecimal() or int(port) > 65535:
        return _fail(f"DOCS_PORT={port} is no port: set it to a number up to 65535")
    handler = functools.partial(_Docs, directory=str(target))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except OSError as error:
        return _fail(
            f"port {port} cannot be used ({error.strerror}): set DOCS_PORT to a free one, such as 8081"
        )
    with server:
        console = Console()
        console.print(
            f"Documentation and lineage: http://127.0.0.1:{server.server_port}  (Ctrl-C ends)",
            highlight=False,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print()
    return 0


def _fail(text: str) -> int:
    Console(stderr=True).print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
