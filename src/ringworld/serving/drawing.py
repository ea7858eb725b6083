"""What images and videos ask alike: a prompt, how its frames are drawn, and how large they are."""

import secrets
from typing import Any

import numpy as np

from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.world import World
from ringworld.serving.body import Body
from ringworld.serving.errors import ApiError, unsupported

_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "guidance_scale")
_NOT_DRAWN = ("negative_prompt", "image", "mask", "width", "height")


def drawing_of(
    body: Body, world: World, *, frames: int, after: np.ndarray | None = None
) -> GenerationRequest:
    """Return what the engine is asked for a prompt; what is left out is as the model folder says.

    Args:
        body: of the request.
        world: that draws.
        frames: how many.
        after: frames that they follow, of any size.

    Raises:
        InputError: a field has another type or is out of range, or the model draws nothing.
        ApiError: a field is not supported, or frames have another size.
    """
    side = world.prompts.seeing().resolution
    for name in _NOT_DRAWN:
        if name in body:
            raise unsupported(name)
    size = body.text("size", "auto")
    if size not in ("auto", f"{side}x{side}"):
        problem = f"size is {size!r:.40}, but this model draws {side}x{side}"
        raise ApiError(400, problem, param="size", code="unsupported_size")
    numbers: dict[str, Any] = {name: body.number(name, 0.0) for name in _NUMBERS if name in body}
    if "top_k" in body:
        numbers["top_k"] = max(0, body.whole("top_k", 0, least=-1))
    # Whoever asks twice without a seed wants two pictures.
    numbers["seed"] = body.whole("seed", secrets.randbits(32), least=1 - 2**63) % 2**32
    return world.drawing(body.text("prompt"), frames=frames, after=after, **numbers)


def size_of(world: World) -> str:
    """Return the size of what is drawn, as OpenAI writes it."""
    side = world.prompts.seeing().resolution
    return f"{side}x{side}"
