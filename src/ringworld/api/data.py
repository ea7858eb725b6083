"""`ringworld.data_stats` and `data_show`: what an examples folder holds, and what a stage draws of it."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from ringworld.api.machine import PathArgument, check_run
from ringworld.artifacts.examples_folder import ExamplesFolder
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.config import from_json
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.files import check_picture, read_jsonl, write_text_atomic
from ringworld.core.origin import Origin, claim, parent, read_origin, working_in
from ringworld.data.examples import Example
from ringworld.data.stats import DataStats, length_stats
from ringworld.data.store import DUPLICATES_FILE, QUARANTINE_FILE, ExampleStore
from ringworld.presets.run import RunConfig
from ringworld.report.data_plots import (
    MOST_PICTURES,
    MOST_STRIPS,
    PackedExample,
    length_histograms,
    packed_sequence,
)
from ringworld.report.plots import write_png
from ringworld.text.vocabulary import Vocabulary
from ringworld.training.stage_loader import stage_loader

_LOSS_BEGINS, _LOSS_ENDS = "\N{LEFT WHITE SQUARE BRACKET}", "\N{RIGHT WHITE SQUARE BRACKET}"


def data_stats(data: PathArgument, *, out: PathArgument | None = None) -> DataStats:
    """Measure the examples that `prepare` wrote: how many, of which kinds and splits, how long.

    Args:
        data: examples folder.
        out: PNG of the lengths to write, with histograms for each data set and kind that is trained on, of
            tokens and of the seconds of whole videos.

    Raises:
        InputError: the folder holds no examples, or `out` cannot be written.
    """
    folder = Path(data)
    picture = None if out is None else Path(out)
    check_picture(picture)
    quarantined, duplicates = (len(read_jsonl(folder / name)) for name in (QUARANTINE_FILE, DUPLICATES_FILE))
    parts = length_stats(ExampleStore(folder))
    if picture is not None:
        trained = [one for one in parts if one.split == "train"] or parts
        named = {f"{one.dataset}/{one.kind}": one for one in trained}
        tokens = {name: one.histogram for name, one in named.items()}
        seconds = {name: one.seconds_histogram for name, one in named.items() if one.seconds_histogram}
        write_png(length_histograms(tokens, seconds), picture)
    return DataStats(parts=parts, quarantined=quarantined, duplicates=duplicates)


def data_show(
    data: PathArgument,
    *,
    out: PathArgument | None = None,
    stage: str | None = None,
    run: RunConfig | None = None,
) -> list[Path]:
    """Draw the first batch of a stage: each packed sequence as a picture and as text.

    The picture has a bar for each example, black where it carries loss, and the frames that it shows, as its
    codes give them back. The text has every word, that with loss between white square brackets.

    Args:
        data: examples folder.
        out: folder to write `STAGE-0.png`, `STAGE-0.txt` and so on into.
        stage: name of the stage; by default the first.
        run: whose stage it is; by default the run that the data was prepared for.

    Returns:
        The files, a picture and a text for each sequence.

    Raises:
        InputError: the folder holds no examples, there is no such stage, nothing of the data fits it, or
            `out` is not given, is a file or holds something else.
    """
    if out is None:
        problem = "out is not given, but pictures are written"
        raise InputError(problem, field="out", remedy="name a folder")
    examples = ExamplesFolder.open(Path(data))
    if run is None:
        configuration = read_origin(examples.path).configuration
        run = from_json(RunConfig, configuration, where=f"the configuration of {examples.path}")
    check_run(run)
    examples.check(run.vocabulary)
    stages = {one.name: one for one in run.training.stages}
    name = stage or next(iter(stages))
    if name not in stages:
        raise not_a_choice("stage", name, choices=stages)
    parents, written = {"data": parent(examples.path, examples.fingerprint)}, []
    of_stage = stage_loader(run.training, list(stages).index(name), data_dir=examples.path)
    with closing(of_stage) as loader, working_in(Path(out), kind="generation"):
        claim(Path(out), Origin(kind="generation", parents=parents))
        for index, row in enumerate(loader.next_rows()):
            picture, text = (Path(out) / f"{name}-{index}.{ending}" for ending in ("png", "txt"))
            shown = [*_shown(row, examples.tokenizers, run.vocabulary)]
            write_png(packed_sequence(shown, context_tokens=stages[name].context_tokens), picture)
            words = [_as_text(i, one, examples.tokenizers, run.vocabulary) for i, one in enumerate(row, 1)]
            write_text_atomic(text, "\n".join(words))
            written += [picture, text]
    return written


def _shown(row: Sequence[Example], tokenizers: Tokenizers, vocabulary: Vocabulary) -> Iterator[PackedExample]:
    """Yield the examples of a sequence; of many with frames, and of many frames, the first have pictures.

    No others are decoded: a sequence of a million tokens has thousands.
    """
    codes = [_codes(one, vocabulary) for one in row]
    strips = [i for i, of_example in enumerate(codes) if len(of_example)][:MOST_STRIPS]
    pictures: dict[int, np.ndarray] = {}
    if tokenizers.frame_tokenizer is not None and strips:
        first = [codes[i][:MOST_PICTURES] for i in strips]
        ends = np.cumsum([len(some) for some in first])[:-1]
        pictures = dict(zip(strips, np.split(tokenizers.frame_tokenizer.decode(np.concatenate(first)), ends)))
    for i, one in enumerate(row):
        name = f"{one.dataset}/{one.kind}  {one.source}"
        yield PackedExample(name=name, loss=one.loss, pictures=pictures.get(i), frames=len(codes[i]))


def _codes(example: Example, vocabulary: Vocabulary) -> np.ndarray:
    """Return the codes of all frames of an example, [frames, codes]."""
    is_vision = vocabulary.is_vision(example.tokens)
    clips = [vocabulary.decode_frames(ids) for ids, vision in _runs(example.tokens, is_vision) if vision]
    return np.concatenate([np.zeros((0, vocabulary.codes_per_frame), np.int32), *clips])


def _as_text(number: int, example: Example, tokenizers: Tokenizers, vocabulary: Vocabulary) -> str:
    """Return an example with a line above it: what it is, and how long."""
    words = []
    for ids, group in _runs(example.tokens, example.loss + 2 * vocabulary.is_vision(example.tokens)):
        loss, vision = group % 2, group >= 2
        frames = f"<{len(ids) // max(1, vocabulary.frame_tokens)} frames>"
        part = frames if vision else tokenizers.text_tokenizer.decode(ids.tolist())
        words.append(f"{_LOSS_BEGINS}{part}{_LOSS_ENDS}" if loss else part)
    title = (
        f"--- {number}: {example.dataset}/{example.kind}, {example.source}, from token "
        f"{example.start_token}: {len(example)} tokens, {int(example.loss.sum())} with loss"
    )
    return f"{title}\n{''.join(words)}\n"


def _runs(ids: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Return consecutive ids of one group each: of `5 6 7` in `0 0 1`, `5 6` in 0 and `7` in 1."""
    edges = np.flatnonzero(np.diff(groups.astype(int))) + 1
    starts = [0, *edges.tolist()]
    return [(part, int(groups[start])) for part, start in zip(np.split(ids, edges), starts)]
