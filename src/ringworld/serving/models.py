"""`/v1/models`: the one model that is served."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.serving.backend import Backend
from ringworld.serving.body import Body
from ringworld.serving.drawing import size_of
from ringworld.serving.gate import Gate
from ringworld.serving.text_options import check_model


class Models:
    """What describes the model."""

    def __init__(self, backend: Backend, *, gate: Gate) -> None:
        """Keep the model."""
        self._backend, self._gate = backend, gate

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            self._gate.route("/v1/models", self._list),
            self._gate.route("/v1/models/{name:path}", self._get),
        ]

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _get(self, request: Request) -> Response:
        check_model(Body({"model": request.path_params["name"]}), self._backend.config.name)
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        config = self._backend.config
        return {
            "id": config.name,
            "object": "model",
            "created": 0,
            "owned_by": "ringworld",
            "max_model_len": self._backend.world.generator.limits.max_context_tokens,
            "vision": self._vision(),
            "memories": config.memory_folder is not None,
        }

    def _vision(self) -> dict[str, Any] | None:
        """Return what the model sees and draws; None where it is one of text alone."""
        world = self._backend.world
        if world.prompts.frame_tokenizer is None:
            return None
        watching = world.watching
        return {
            "size": size_of(world),
            "fps": watching.frames_per_second,
            "max_frames": watching.max_frames,
        }
