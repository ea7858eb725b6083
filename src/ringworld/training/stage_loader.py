"""What a stage draws of the prepared examples."""

from collections.abc import Collection
from pathlib import Path

from ringworld.data.loader import PackedLoader
from ringworld.training.config import TrainingConfig


def stage_loader(
    config: TrainingConfig, index: int, *, data_dir: Path, rows: Collection[int] | None = None
) -> PackedLoader:
    """Return the loader of a stage, each of which draws in an order of its own.

    Args:
        config: stages, packing and seed.
        index: of the stage, from 0.
        data_dir: examples folder.
        rows: of each batch that are read; see `PackedLoader`.

    Raises:
        InputError: the folder holds no examples that the stage could draw.
    """
    stage = config.stages[index]
    return PackedLoader(
        data_dir,
        split="train",
        context_tokens=stage.context_tokens,
        batch_sequences=stage.batch_sequences,
        mixture=stage.mixture,
        clips=stage.clips,
        packing=config.packing,
        seed=config.seed + index,
        rows=rows,
    )
