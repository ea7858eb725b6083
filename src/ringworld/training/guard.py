"""Updates that would do harm are skipped, inside of the compiled step."""

import math
from dataclasses import replace
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from ringworld.core.errors import Diverged
from ringworld.training.config import GuardConfig

_WINDOW_UPDATES = 64
"""Over which the median of gradient norms runs."""
Tree = TypeVar("Tree")


class Guard(eqx.Module):
    """What decides whether an update is made; part of the state, so that a resumed run decides the same."""

    norms: Float32[Array, " window"]
    """Gradient norms of the last updates of the stage that were made, the newest last; infinite before there
    were any, so that nothing is a spike until half of them are known."""
    skipped: Int32[Array, ""]
    """Updates skipped since the run began."""
    in_a_row: Int32[Array, ""]
    """Those of the stage since the last update that was made."""
    loss: Float32[Array, ""]
    """Of the last update that was skipped for its loss or norm."""
    norm: Float32[Array, ""]
    """Of its gradient."""

    @staticmethod
    def new() -> "Guard":
        """Return that of a run that begins."""
        return Guard(
            norms=jnp.full(_WINDOW_UPDATES, jnp.inf, jnp.float32),
            skipped=jnp.int32(0),
            in_a_row=jnp.int32(0),
            loss=jnp.float32(0),
            norm=jnp.float32(0),
        )

    def next_stage(self) -> "Guard":
        """Return that with which a stage begins: its gradients are of other sizes."""
        return replace(Guard.new(), skipped=self.skipped)


def judge(
    guard: Guard, *, loss: Float32[Array, ""], norm: Float32[Array, ""], config: GuardConfig
) -> tuple[Bool[Array, ""], Guard]:
    """Return whether an update is made, and what is remembered of it.

    | loss and norm | norm over the running median | updates skipped before it in a row | |
    |---|---|---|---|
    | finite | at most `spike_factor`, or that is 0 | fewer than `most_in_a_row` | made |
    | not finite | any | any | skipped |
    | any | more than `spike_factor` | any | skipped |
    | any | any | `most_in_a_row` | skipped: the run stops as soon as the host looks |

    Args:
        guard: of the state.
        loss: of this update.
        norm: of its gradient, before it is clipped.
        config: the limits.
    """
    fit = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.spike_factor:
        fit &= norm <= jnp.float32(config.spike_factor) * jnp.median(guard.norms)
    stopped = guard.in_a_row >= config.most_in_a_row
    good = fit & ~stopped
    bad = 1 - good.astype(jnp.int32)
    newer = jnp.append(guard.norms[1:], norm)
    return good, Guard(
        norms=jax.lax.select(good, newer, guard.norms),
        skipped=guard.skipped + bad,
        in_a_row=(guard.in_a_row + bad) * bad,
        loss=jax.lax.select(fit | stopped, guard.loss, loss),
        norm=jax.lax.select(fit | stopped, guard.norm, norm),
    )


def made_if(good: Bool[Array, ""], after: Tree, before: Tree) -> Tree:
    """Return the weights or moments after an update, or those before it where it is skipped.

    Integer counts advance all the same: what depends on the step, such as the learning rate, stays as
    configured.
    """

    def chosen(new: Array, old: Array) -> Array:
        return new if jnp.issubdtype(new.dtype, jnp.integer) else jax.lax.select(good, new, old)

    return jax.tree.map(chosen, after, before)


def check_skipped(guard: Guard, *, step: int, of: str, config: GuardConfig) -> None:
    """Stop a run that makes no updates any more.

    Example:
        Two may be skipped in a row, as steps 4 and 5 were, and the host looks after step 6, of which three
        are skipped by then: step 5 is named, the last of two.

    Args:
        guard: on the host or not.
        step: after which it is what it is.
        of: what is trained.
        config: the limits.

    Raises:
        Diverged: as many updates in a row were skipped as may be; of the last of them.
    """
    since = int(guard.in_a_row) - config.most_in_a_row
    if since >= 0:
        loss, norm = float(guard.loss), float(guard.norm)
        name, value = ("gradient_norm", norm) if math.isfinite(loss) else ("loss", loss)
        raise Diverged(name, value=value, step=step - since, of=of, in_a_row=config.most_in_a_row)
