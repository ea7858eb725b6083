"""What the head of a model reads, as tests compare it with other people's."""

from jaxtyping import Array, Float, Int32

from ringworld.model.forward import Forward
from ringworld.model.layers import rms_norm
from ringworld.model.world_model import WorldModel, residual


def hidden(
    model: WorldModel,
    tokens: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> Float[Array, "batch seq embed"]:
    """Return the residual stream after the last norm; arguments as of `residual`."""
    x = residual(model, tokens, order=order, first=first, forward=forward)
    return rms_norm(x, model.norm, eps=forward.architecture.norm_eps)
