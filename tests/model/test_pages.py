"""What compiled programs of a paged cache send and copy; `tests/inference/engine` has what they compute."""

import re
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.config import Architecture, CacheType, Execution
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.pages import PagePool, read_pages, step_pages
from ringworld.model.world_model import WorldModel

CONFIG = Architecture(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=48, text_vocab=40, vision_vocab=24)
FORWARD = Forward.of(CONFIG, Execution())
PAGE, MEMBERS = 32, 2
SENT = re.compile(r"(\S+) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)\(")


def shaped(shape: tuple[int, ...], *layout: str | None) -> Any:
    return jax.ShapeDtypeStruct(
        shape, np.int32, sharding=jax.NamedSharding(jax.sharding.get_mesh(), spec(*layout))
    )


def compiled_step(weights: Any, pool: Any, *, width: int) -> Any:
    step = jax.jit(partial(step_pages, forward=FORWARD), donate_argnames="pool")
    rows, tables = shaped((4,), None), shaped((4, width), None, None)
    return step.lower(weights, pool, rows, order=rows, tables=tables).compile()


def compiled_chunk(weights: Any, pool: Any, *, width: int) -> Any:
    read = jax.jit(partial(read_pages, forward=FORWARD), donate_argnames="pool")
    chunk, pages = shaped((1, 2 * PAGE), "batch", "seq"), shaped((2,), None)
    table = shaped((1, width), "batch", None)
    return read.lower(weights, pool, chunk, order=chunk, pages=pages, table=table).compile()


@pytest.mark.parametrize("cache_type", ["compute", "int8"])
@pytest.mark.parametrize("compiled", [compiled_step, compiled_chunk])
def test_what_travels_does_not_grow_with_the_context_and_no_pool_is_copied(compiled, cache_type: CacheType):
    mesh = make_mesh(MeshConfig(ring=MEMBERS), devices=jax.devices()[:MEMBERS])
    traffic, needed = {}, {}
    with jax.set_mesh(mesh):
        weights = jax.eval_shape(
            partial(GenerationWeights.from_model, compute="float32"), WorldModel.abstract(CONFIG)
        )
        for width in (64, 2048):
            pool = jax.eval_shape(
                partial(
                    PagePool.init,
                    CONFIG,
                    pages=width + 1,
                    page_tokens=PAGE,
                    compute="float32",
                    cache_type=cache_type,
                )
            )
            program = compiled(weights, pool, width=width)
            text = program.as_text()
            traffic[width] = sorted(SENT.findall(text))
            needed[width] = program.memory_analysis().temp_size_in_bytes
            held = f"{width + 1},{CONFIG.kv_heads},{PAGE // MEMBERS}"
            assert not re.search(rf"\w+\[{held}[,\d]*\]\S* copy\(", text)
    assert traffic[64] == traffic[2048] != []
    # Four rows of a table of int32, twice; the smallest array of a pool grows by 500,000 bytes.
    assert needed[2048] - needed[64] < 100_000
