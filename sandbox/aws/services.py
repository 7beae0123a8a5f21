"""Moto's server with our Athena and the corrections in it."""

import socket
import threading

import moto.athena.urls
import moto.glue.urls
import moto.lakeformation.urls
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from .athena.api import LocalAthena
from .athena.engine import Engine
from .corrections import s3
from .corrections.glue import CorrectedGlue
from .corrections.lakeformation import CorrectedLakeFormation


def serve(listener: socket.socket, region: str, concurrency: int) -> Engine:
    """Starts to serve all of moto's services in the background.

    Args:
        listener: a socket that listens.
        region: of Athena.
        concurrency: statements that run at once.

    Returns:
        The engine, which needs a Trino before it can run anything.
    """
    LocalAthena.engine = Engine(region, concurrency)
    moto.athena.urls.url_paths = {"{0}/$": LocalAthena.dispatch}
    moto.glue.urls.url_paths = {"{0}/$": CorrectedGlue.dispatch}
    corrected = CorrectedLakeFormation()
    moto.lakeformation.urls.url_paths = dict.fromkeys(moto.lakeformation.urls.url_paths, corrected.dispatch)
    s3.install()
    application = DomainDispatcherApplication(create_backend_app)
    host, port = listener.getsockname()
    with listener:  # the server has a copy
        server = make_server(
            host, port, application, threaded=True, request_handler=_Handler, fd=listener.fileno()
        )
    threading.Thread(target=server.serve_forever, daemon=True, name="moto").start()
    return LocalAthena.engine


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def log(self, type: str, message: str, *arguments: object) -> None:
        """Requests are not logged."""
