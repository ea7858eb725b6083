"""From the user's files to examples on disk, a shard at a time.

A shard holds the examples of a few files, or of a part of a large one. It is a function of those files, the
tokenizers and the configuration alone, and its name is a hash of them. It appears whole, and a run that
resumes makes only the shards that are missing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from ringworld.core.config import to_json
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.files import write_jsonl_atomic
from ringworld.core.origin import Origin, claim, library_versions
from ringworld.data import store
from ringworld.data.by_ray import make_shards_by_ray
from ringworld.data.config import PrepareConfig
from ringworld.data.division import divide
from ringworld.data.duplicates import Duplicate, mark_duplicates
from ringworld.data.find_sources import RECORD_READERS, find_sources
from ringworld.data.frame_batches import FrameEncoder
from ringworld.data.groups import cut_into_groups, name_groups
from ringworld.data.making import ExampleMaker
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.progress import OnProgress
from ringworld.data.quarantine import Quarantined, nothing_usable
from ringworld.data.reading import Reading
from ringworld.data.recipe import Recipe
from ringworld.data.recipes import RECIPES
from ringworld.data.shards import Shard, ShardTask, find_shard, make_shards, try_files
from ringworld.data.sources import Reader, Source
from ringworld.data.stats import length_stats
from ringworld.data.unread import UnreadFiles
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.training_template import wording_of
from ringworld.text.vocabulary import Vocabulary

Engine = Literal["pool", "ray"]
EncodedBy = Literal["any process", "this process"]
_DECODERS = ("av", "pillow")
"""Libraries whose releases may decode a clip to other pixels."""
_READING_FILE, _UNREAD_FILE = ".reading", ".unread.jsonl"
"""In the folder: what stands there while files are read, and those that ended the process that read them."""


def prepare(
    *,
    videos: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    out: Path,
    tokenizer: TextTokenizer,
    frame_tokenizer: FrameEncoder | None = None,
    vocabulary: Vocabulary,
    config: PrepareConfig,
    readers: Mapping[str, Reader] = RECORD_READERS,
    recipes: Sequence[Recipe] = RECIPES,
    configuration: Any = None,
    workers: int | None = None,
    engine: Engine = "pool",
    encoded_by: EncodedBy = "any process",
    on_progress: OnProgress = lambda done: None,
) -> PrepareReport:
    """Write the examples of all usable files under `out`.

    A second call makes only the shards that are missing or whose files have changed; what an earlier one made
    can be used until the new shards are complete.

    Args:
        videos: folders or files of videos and images, with captions and questions beside them.
        texts: folders or files of text, with questions beside them.
        out: folder of the prepared data, of these folders and files alone; see `ringworld.data.store`.
        tokenizer: of the text. Videos need one too: every example begins and ends with its special ids.
        frame_tokenizer: of the frames; None where there are no videos.
        vocabulary: of both.
        config: frame rate, lengths and splits.
        readers: of files of many samples, by the end of their names.
        recipes: the kinds of example that are made.
        configuration: of the whole run, for the origin of the examples.
        workers: processes that read files; with 1, this one does. By default as many as there are cores,
            where there is enough to read for each. After a run that did not come to its end, as where a file
            ended it, each file is read by another process first. What ends one, or gives no sign of life for
            `workers.SILENT_SECONDS`, is quarantined, and not read again until it changes.
        engine: whether these are of this machine or of a Ray cluster; the examples do not depend on it.
        encoded_by: which processes may encode frames. An accelerator belongs to one process: jax takes its
            memory, or all of it, when it is opened, so that no other can encode on it. Where this process
            has opened one, it alone encodes, and others only decode.
        on_progress: called as files are done, in each phase.

    Raises:
        InputError: a folder is missing, no file can be used, `out` holds the examples of other inputs,
            there is no such engine, or there are videos without a frame tokenizer or without codes in the
            vocabulary.
    """
    started = time.monotonic()
    if engine not in get_args(Engine):
        raise not_a_choice("engine", str(engine), choices=get_args(Engine))
    _check_frames(videos, frame_tokenizer, vocabulary)
    maker = ExampleMaker(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        config=config,
        frame_tokenizer=frame_tokenizer,
        recipes=tuple(recipes),
        conversation=wording_of(config.chat_template, tokenizer),
    )
    unusable: list[Quarantined] = []
    with _marked(out) as left:
        reading = Reading(
            workers=workers,
            by="others" if left or engine == "ray" else "any",
            unread=UnreadFiles(out / _UNREAD_FILE),
            on_progress=on_progress,
        )
        found = find_sources(
            videos=videos, texts=texts, config=config, readers=readers, quarantined=unusable, reading=reading
        )
        identity = _identity(maker, out=out, videos=videos, texts=texts)
        origin = Origin(kind="examples", identity=identity, configuration=configuration)
        claim(out, origin, results=store.MANIFEST_FILE)  # shards before it are distinguished by their names
        parts = divide(found, most_bytes=config.bytes_per_shard, reading=reading)
        sources, duplicates = mark_duplicates(parts, config=config, reading=reading)
        tasks = _plan(sources, config=config, made_by=identity["made_by"], out=out)
        made = _make(tasks, maker, reading=reading, engine=engine, encoded_by=encoded_by)
    manifest = pa.concat_tables([shard.manifest for shard in made.shards])
    problems = [shard.problems for shard in made.shards]
    unusable += [item for problem in problems for item in problem.quarantined]
    if not manifest.num_rows:
        raise nothing_usable(", ".join(map(str, (*videos, *texts))) or "input", unusable)
    _commit(out, tasks, manifest, unusable, duplicates)
    return PrepareReport(
        files=len(found),
        parts=length_stats(store.ExampleStore(out)),
        quarantined=tuple(unusable),
        duplicates=len(duplicates),
        said_of_duplicates=sum(one.said for one in duplicates),
        questions_unanswered=sum(problem.questions_unanswered for problem in problems),
        questions_too_long=sum(problem.questions_too_long for problem in problems),
        shards_made=made.missing,
        failed_on_ray=made.failed_on_ray,
        seconds=time.monotonic() - started,
    )


@contextmanager
def _marked(out: Path) -> Iterator[bool]:
    """Leave a mark in a folder while files are read, and give whether a run that did not end left one.

    An error ends no process. An interruption may be of a file that holds it up.
    """
    mark = out / _READING_FILE
    left = mark.exists()
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield left
    except Exception:
        mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def _plan(
    sources: Sequence[Source], *, config: PrepareConfig, made_by: dict[str, Any], out: Path
) -> list[ShardTask]:
    """Return the shards of all files, those that are whole already among them."""
    groups = cut_into_groups(sources, most=config.files_per_shard, most_bytes=config.bytes_per_shard)
    names = name_groups(groups, made_by=made_by)
    return [
        ShardTask(stem=out / store.SHARDS_FOLDER / name, sources=group) for name, group in zip(names, groups)
    ]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Made:
    shards: list[Shard]
    """All, in their order."""
    missing: int
    """Of these, those that were made."""
    failed_on_ray: int


def _make(
    tasks: Sequence[ShardTask],
    maker: ExampleMaker,
    *,
    reading: Reading,
    engine: Engine,
    encoded_by: EncodedBy,
) -> _Made:
    """Make the shards that are missing, and return all."""
    shards = {task.stem: shard for task in tasks if (shard := find_shard(task.stem)) is not None}
    missing = [task for task in tasks if task.stem not in shards]
    files, left = (sum(len(task.sources) for task in some) for some in (tasks, missing))
    count = reading.count("making", total=files, before=files - left)

    def keep(made: Iterator[tuple[ShardTask, Shard]]) -> None:
        for task, shard in made:
            shards[task.stem] = shard
            count.ends(len(task.sources), quarantined=len(shard.problems.quarantined))

    if engine == "ray":
        keep(make_shards_by_ray(missing, maker, workers=reading.workers))
    here = [task for task in missing if task.stem not in shards]
    if encoded_by == "this process":
        if reading.by == "others":
            try_files(here, maker.config, reading=reading)
        reading = replace(reading, workers=1, by="any")
    keep(make_shards(here, maker, reading=reading, count=count))
    return _Made(
        shards=[shards[task.stem] for task in tasks],
        missing=len(missing),
        failed_on_ray=len(here) if engine == "ray" else 0,
    )


def _commit(
    out: Path,
    tasks: Sequence[ShardTask],
    manifest: pa.Table,
    unusable: Sequence[Quarantined],
    duplicates: Sequence[Duplicate],
) -> None:
    """Write what joins the shards, and only then delete those of an earlier run that are none of them."""
    write_jsonl_atomic(out / store.QUARANTINE_FILE, map(to_json, unusable))
    write_jsonl_atomic(out / store.DUPLICATES_FILE, map(to_json, duplicates))
    store.write_manifest(out / store.MANIFEST_FILE, manifest)
    stems = {task.stem for task in tasks}
    for path in (out / store.SHARDS_FOLDER).iterdir():
        if path.with_suffix("") not in stems:
            path.unlink()


def _check_frames(
    videos: Sequence[Path], frame_tokenizer: FrameEncoder | None, vocabulary: Vocabulary
) -> None:
    if videos and frame_tokenizer is None:
        raise InputError(
            "videos cannot be prepared without a frame tokenizer",
            field="frame_tokenizer",
            remedy="pass one, or prepare texts alone",
        )
    if videos and not vocabulary.codes:
        raise InputError(
            "videos cannot be prepared with a vocabulary of text alone",
            field="vocabulary",
            value=vocabulary,
            remedy="use a vocabulary with the codes of the frame tokenizer, or prepare texts alone",
        )


def _identity(
    maker: ExampleMaker, *, out: Path, videos: Sequence[Path], texts: Sequence[Path]
) -> dict[str, Any]:
    """Return what decides the examples in `out`: the inputs, and by whom each file becomes examples."""

    def named(path: Path) -> str:
        # Inputs below the folder in which `out` lies may move together with it.
        path, base = path.resolve(), out.resolve().parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)

    encoder, own = maker.frame_tokenizer, maker.config.chat_template == "own"
    return {
        "videos": [named(path) for path in videos],
        "texts": [named(path) for path in texts],
        "made_by": {
            "format": store.FORMAT,
            "recipes": {recipe.kind: recipe.version for recipe in maker.recipes},
            "config": to_json(maker.config),
            "vocabulary": to_json(maker.vocabulary),
            "text_tokenizer": maker.tokenizer.fingerprint,
            "chat_template": maker.tokenizer.settings.get("chat_template") if own else None,
            "frame_tokenizer": encoder.fingerprint if encoder else None,
            "resolution": encoder.resolution if encoder else None,
            "decoders": library_versions(*_DECODERS) if encoder else None,
        },
    }
