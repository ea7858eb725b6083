"""A model, data and a run that are small enough for tests; also the program that tests stop while it runs.

`python -m tests.training.tiny_run DATA OUT [--one-device] [--die-after STAGE] [--log-every STEPS]` trains two
stages on two meshes, or on one device, each batch in two pieces. It adds a line to OUT/hooks.txt in every
call of its hook, and with `--die-after` kills itself in that call.
"""

import argparse
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ringworld.attention.config import AttentionConfig
from ringworld.core.config import to_json
from ringworld.core.mesh import simulate_devices
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, write_origin
from ringworld.data import store
from ringworld.data.config import MixtureConfig, Split
from ringworld.data.examples import Example
from ringworld.data.making import Group, Unfilled
from ringworld.model.config import Architecture, Execution
from ringworld.text.vocabulary import Vocabulary
from ringworld.training.config import Stage, TrainingConfig
from ringworld.training.loop import train

VOCABULARY = Vocabulary(text_size=24, codes=6, codes_per_frame=4)
MODEL = Architecture(
    layers=2,
    embed=16,
    heads=4,
    kv_heads=2,
    head=4,
    mlp=32,
    text_vocab=VOCABULARY.text_size,
    vision_vocab=VOCABULARY.vision_size,
)
EXECUTION = Execution(attention=AttentionConfig(layout="balanced", block_q_tokens=8, block_kv_tokens=8))


def stage(name: str = "short", **changes: Any) -> Stage:
    """Return a stage of rows of 32 tokens with some of its fields changed."""
    fields: dict[str, Any] = dict(
        context_tokens=32,
        rope_base=1e4,
        steps=40,
        batch_sequences=4,
        learning_rate=1e-2,
        warmup_steps=4,
        mixture=MixtureConfig(),
    )
    return Stage(name=name, **(fields | changes))


ONE_DEVICE = MeshConfig()
TWO_MESHES = (MeshConfig(fsdp=2), MeshConfig(ring=4))


def training(
    first_mesh: MeshConfig = ONE_DEVICE, second_mesh: MeshConfig = ONE_DEVICE, **changes: Any
) -> TrainingConfig:
    """Return a run of 40 steps at 32 tokens and 40 at 64, each on a mesh, with some of its fields changed."""
    stages = (
        stage(mesh=first_mesh),
        stage("long", context_tokens=64, rope_base=1e5, batch_sequences=2, mesh=second_mesh),
    )
    fields: dict[str, Any] = dict(stages=stages, checkpoint_every_steps=7)
    return TrainingConfig(**(fields | changes))


def example(rng: np.random.Generator, *, tokens: int, kind: str) -> Example:
    """Draw an example of text, or one of text and then two frames; the first two tokens carry no loss."""
    ids = rng.integers(1, VOCABULARY.text_size, tokens).astype(np.int32)
    if kind == "video":
        frames = VOCABULARY.encode_frames(rng.integers(0, VOCABULARY.codes, (2, VOCABULARY.codes_per_frame)))
        ids = np.concatenate([ids, frames])
    loss = np.arange(ids.size) >= 2
    cut = "never" if kind == "video" else "tokens"
    return Example(tokens=ids, loss=loss, kind=kind, source="tests", cut=cut)


def write_data(folder: Path, *, seed: int = 0) -> Path:
    """Write prepared data of 41 examples, half with frames, one longer than the first stage's rows."""
    rng = np.random.default_rng(seed)
    made = [example(rng, tokens=int(rng.integers(3, 20)), kind=("text", "video")[i % 2]) for i in range(40)]
    made.append(example(rng, tokens=30, kind="video"))
    return write_examples(folder, [(one, "train") for one in made], vocabulary=VOCABULARY)


def write_examples(folder: Path, made: Iterable[tuple[Example, Split]], *, vocabulary: Vocabulary) -> Path:
    """Write prepared data of one shard, and return its folder."""
    stem = folder / store.SHARDS_FOLDER / "00000-of-00001"
    groups = (Group(split=split, clips=(), examples=(Unfilled(example=one),)) for one, split in made)
    manifest = store.write_shard(stem, groups, vocabulary=vocabulary)
    store.write_manifest(folder / store.MANIFEST_FILE, manifest)
    dataset = store.Dataset(
        format=store.FORMAT, vocabulary=vocabulary, text_tokenizer="none", frame_tokenizer="none"
    )
    write_origin(folder, Origin(kind="examples", identity={"made_by": to_json(dataset)}))
    return folder


def run(data: Path, out: Path, *, one_device: bool = False, die_after: str = "", log_every: int = 1) -> None:
    """Train in this process, as the module says."""

    def hook(when: str, stage: Stage, model: object, mesh: object) -> None:
        with (out / "hooks.txt").open("a") as stream:
            stream.write(f"{when} {stage.name}\n")
        if when == "after" and stage.name == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    pieces = 2 if one_device else 1
    stages = (
        replace(one, accumulation_steps=pieces) for one in training(*() if one_device else TWO_MESHES).stages
    )
    train(
        training(stages=tuple(stages), log_every_steps=log_every),
        architecture=MODEL,
        execution=EXECUTION,
        data_dir=data,
        out=out,
        origin=Origin(kind="run"),
        on_stage=hook,
    )


def main() -> None:
    """Train, as the module says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--one-device", action="store_true")
    parser.add_argument("--die-after", default="")
    parser.add_argument("--log-every", type=int, default=1)
    simulate_devices(8)  # as tests do, so that both share compiled programs
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
