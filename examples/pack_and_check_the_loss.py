"""Three documents packed into one sequence have the loss that they have one to a row, padded.

python examples/pack_and_check_the_loss.py
"""

import jax
import numpy as np

from ringworld.core.mesh import mesh_of
from ringworld.data.examples import Example
from ringworld.data.packing import pack_sequences, to_batch
from ringworld.model.arrange import Layout
from ringworld.model.forward import Forward
from ringworld.presets import smoke
from ringworld.training.state import init_state
from ringworld.training.step import loss_and_gradient

run, draw = smoke(), np.random.default_rng(0)
stage, vocab = run.training.stages[0], run.model.text_vocab
jax.config.update("jax_num_cpu_devices", stage.mesh.devices)
mesh, forward = mesh_of(stage.mesh), Forward.of(run.model, run.execution)
documents = [
    Example(tokens=draw.integers(0, vocab, n).astype(np.int32), loss=np.ones(n, bool), kind="text", source="")
    for n in (20, 31, 7)
]
packed = list(pack_sequences(documents, context_tokens=stage.context_tokens, open_sequences=1))
losses = []
loss_of = jax.jit(lambda *args: loss_and_gradient(*args, config=run.training, forward=forward)[0].loss)
with jax.set_mesh(mesh):
    model = init_state(run.training, run.model, mesh=mesh).params
    for rows in (packed, [[document] for document in documents]):
        batch = to_batch(rows, context_tokens=stage.context_tokens, text_size=vocab)
        pieces = (Layout(run.execution.attention, mesh=mesh).place(batch.batch, batch.lengths).arrays,)
        losses.append(float(loss_of(model, pieces)))
        print(f"{len(rows)} rows: {losses[-1]:.6f} nats")
np.testing.assert_allclose(*losses, rtol=1e-5)
print("equal")
