"""A server that runs until it is stopped."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig
from ringworld.inference.world import World
from ringworld.serving.app import Server
from ringworld.serving.config import ServingConfig


def run(
    world: World,
    *,
    config: ServingConfig,
    engine: EngineConfig,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a model until SIGINT or SIGTERM; what is being written then may finish for some seconds.

    Args:
        world: the model.
        config: where, and to whom.
        engine: how much at once.
        on_ready: called with the address once requests are taken.

    Raises:
        InputError: the address cannot be listened at, or the cache would hold less than a context.
    """
    with _listening(config) as listener, world.engine(engine) as made:
        # Before anybody waits: each shape is compiled once.
        made.warm_up()
        server = http_server(Server(world, made, config=config).app, config=config)
        host, port = listener.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        asyncio.run(server.serve(sockets=[listener]))


def http_server(app: ASGIApp, *, config: ServingConfig) -> uvicorn.Server:
    """Return what speaks HTTP for an application.

    It has no bound of connections: those that ask nothing would keep others out, and the answer of uvicorn, a
    503, those who look after the server. The application bounds what is answered at once.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=max(1, round(config.shutdown_seconds)),
            server_header=False,
        )
    )


def _listening(config: ServingConfig) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        return socket.create_server((config.host, config.port), family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"port {config.port} of {config.host} cannot be listened at ({error.strerror or error})",
            field="port",
            value=config.port,
            remedy="choose another port, or 0 for any that is free",
        ) from None
