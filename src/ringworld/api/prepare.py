"""`ringworld.prepare`: examples from a user's files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from ringworld.api.machine import PathArgument, Paths, as_local, as_paths, begin_process, check_apart
from ringworld.artifacts.examples_folder import preparing, save_beside_examples
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.config import to_json
from ringworld.core.progress import Progress
from ringworld.data.find_sources import RECORD_READERS
from ringworld.data.prepare import Engine
from ringworld.data.prepare import prepare as prepare_examples
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.progress import Done, OnProgress, Phase
from ringworld.data.recipe import Recipe
from ringworld.data.recipes import RECIPES
from ringworld.data.sources import Reader
from ringworld.presets.run import RunConfig
from ringworld.text.training_template import with_template

_TITLES: dict[Phase, str] = {
    "finding": "prepare: what files are",
    "splitting": "prepare: what is held out",
    "dividing": "prepare: where large files are divided",
    "comparing": "prepare: which texts are there twice",
    "trying": "prepare: whether files can be read",
    "making": "prepare",
}


def prepare(
    run: RunConfig,
    *,
    tokenizer: PathArgument,
    out: PathArgument,
    videos: Paths = (),
    texts: Paths = (),
    readers: Mapping[str, Reader] = RECORD_READERS,
    recipes: Sequence[Recipe] = RECIPES,
    workers: int | None = None,
    engine: Engine = "pool",
) -> PrepareReport:
    """Write the examples of all usable files; a second call makes only what is missing or has changed.

    A script calls it below `if __name__ == "__main__":`, since processes that read files import the script.

    Args:
        run: frame rate, lengths and splits, and the vocabulary of the model to be trained.
        tokenizer: tokenizer folder or model folder.
        out: examples folder to write.
        videos: folders or files of videos and images, with captions and questions beside them; or addresses
            that fsspec reads, such as `s3://bucket/videos`, which are copied into `out` first.
        texts: folders or files of text, with questions beside them; or addresses.
        readers: what reads a file of many samples, by the end of its name.
        recipes: the kinds of example that are made.
        workers: processes that read files, which changes no byte of the examples; by default as many as there
            are cores where there is enough to read. Where an accelerator encodes frames, this process makes
            all examples, and others only compare files.
        engine: where they are: on this machine, or on those of a Ray cluster that shares its file system.

    Raises:
        InputError: a path is missing, no file can be used, the tokenizers do not fit the run, or `out` holds
            the examples of other files.
    """
    begin_process(run)
    out, videos, texts = Path(out), as_paths(videos), as_paths(texts)
    check_apart(out, (*videos, *texts))
    with preparing(out), Progress("prepare", total=1, unit="files") as progress:
        tokenizers = Tokenizers.load(Path(tokenizer))
        vocabulary = tokenizers.vocabulary(text_vocab=run.model.text_vocab)
        accelerated = tokenizers.frame_tokenizer is not None and jax.default_backend() != "cpu"
        report = prepare_examples(
            videos=as_local(videos, out=out),
            texts=as_local(texts, out=out),
            out=out,
            tokenizer=tokenizers.text_tokenizer,
            frame_tokenizer=tokenizers.frame_tokenizer,
            vocabulary=vocabulary,
            config=run.prepare,
            readers=readers,
            recipes=recipes,
            configuration=to_json(run),
            workers=workers,
            engine=engine,
            encoded_by="this process" if accelerated else "any process",
            on_progress=_shown(progress),
        )
        words = with_template(tokenizers.text_tokenizer, run.prepare.chat_template)
        save_beside_examples(out, tokenizers=replace(tokenizers, text_tokenizer=words), report=report)
    return report


def _shown(progress: Progress) -> OnProgress:
    """Return what shows each phase of preparation as a separate job."""
    shown: Phase | None = None

    def show(done: Done) -> None:
        nonlocal shown
        if done.phase != shown:
            shown = done.phase
            progress.begin(_TITLES[done.phase], total=done.total, done=done.before)
        if done.phase == "making":
            rate, left_out = progress.per_second(done.files), float(done.quarantined)
            progress.update(done.files, files_per_second=rate, quarantined=left_out)
        elif done.files < done.total:  # its end is shown by the next one's beginning
            progress.update(done.files)

    return show
