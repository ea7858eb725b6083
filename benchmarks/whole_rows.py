"""What benchmarks of training share: rows of one example each, and a model of random weights on disk."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def ids_of(vocab: int, *, sequences: int, length: int) -> np.ndarray:
    """Return the ids that every subject trains on, the same in every process."""
    return np.random.default_rng(0).integers(0, vocab, (sequences, length), dtype=np.int32)


def placed(ids: np.ndarray, *, attention: Any, mesh: Any) -> Any:
    """Return rows of one example each on a mesh, every target of which counts, as the pieces of an update."""
    from ringworld.data.batch import PackedBatch
    from ringworld.model.arrange import Layout

    sequences, length = ids.shape
    weights = np.full(ids.shape, 1 / (length - 1), np.float32)
    weights[:, -1] = 0
    batch = PackedBatch(
        tokens=ids,
        targets=np.where(weights > 0, np.roll(ids, -1, axis=1), -1).astype(np.int32),
        order=np.tile(np.arange(length, dtype=np.int32), (sequences, 1)),
        first=np.zeros(ids.shape, np.int32),
        text_weights=weights,
        vision_weights=np.zeros(ids.shape, np.float32),
    )
    return (Layout(attention, mesh=mesh).place(batch, [[length]] * sequences).arrays,)


def write_model(folder: Path, shape: dict[str, Any]) -> None:
    """Write a model of a shape whose weights are drawn, which transformers opens too."""
    import jax

    from ringworld.artifacts.model_folder import save_model
    from ringworld.artifacts.tokenizers import Tokenizers
    from ringworld.core.mesh import mesh_of
    from ringworld.core.mesh_config import MeshConfig
    from ringworld.core.origin import Origin
    from ringworld.model.config import Architecture, Rope
    from ringworld.model.world_model import WorldModel
    from ringworld.text.tokenizer import TextTokenizer

    architecture, mesh = Architecture(**shape, rope=Rope(base=1e5), norm_eps=1e-5), mesh_of(MeshConfig())
    with jax.set_mesh(mesh):
        model = jax.jit(lambda key: WorldModel.init(architecture, key=key))(jax.random.key(0))
    save_model(
        folder,
        model,
        architecture=architecture,
        tokenizers=Tokenizers(
            text_tokenizer=TextTokenizer.train(["a b c"], vocab_size=300), frame_tokenizer=None
        ),
        context_tokens=8192,
        generation={},
        origin=Origin(kind="model"),
        mesh=mesh,
    )


def rounds_of(subjects: Iterable[str], *, shape: dict[str, Any], rounds: int) -> dict[str, dict[str, Any]]:
    """Run this script once a subject, all in turn, and return the least time and the most memory of each.

    Each process is told its subject and the model of random weights that all train.
    """
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        write_model(Path(work) / "model", shape)
        for _ in range(rounds):
            for name in subjects:
                command = [sys.executable, *sys.argv, "--subject", name, "--model", f"{work}/model"]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                best = results.setdefault(name, found)
                for key, choose in (("step_seconds", min), ("peak_bytes", max)):
                    best[key] = choose(best[key], found[key])
                print(name, best, file=sys.stderr, flush=True)
    return results
