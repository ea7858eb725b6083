"""`ringworld.prepare`: examples from a user's files."""

from pathlib import Path

from ringworld.api.machine import PathArgument, Paths, as_paths, begin_process, check_apart
from ringworld.artifacts.examples_folder import TOKENIZER_FOLDER
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.config import to_json
from ringworld.core.files import only_one, write_json_atomic
from ringworld.core.progress import Progress
from ringworld.data.prepare import PrepareReport
from ringworld.data.prepare import prepare as prepare_examples
from ringworld.presets.run import RunConfig

REPORT_FILE = "report.json"


def prepare(
    run: RunConfig,
    *,
    tokenizer: PathArgument,
    out: PathArgument,
    videos: Paths = (),
    texts: Paths = (),
) -> PrepareReport:
    """Write the examples of all usable files; a second call makes only what is missing or has changed.

    Args:
        run: frame rate, lengths and splits, and the vocabulary of the model to be trained.
        tokenizer: tokenizer folder or model folder.
        out: examples folder to write.
        videos: folders or files of videos and images, with captions and questions beside them.
        texts: folders or files of text, with questions beside them.

    Raises:
        InputError: a path is missing, no file can be used, the tokenizers do not fit the run, or `out` holds
            the examples of other files.
    """
    begin_process(run)
    out, tokenizers = Path(out), Tokenizers.load(Path(tokenizer))
    vocabulary = tokenizers.vocabulary(text_vocab=run.model.text_vocab)
    videos, texts = as_paths(videos), as_paths(texts)
    check_apart(out, (*videos, *texts))
    with only_one(out), Progress("prepare", total=1, unit="files") as progress:
        report = prepare_examples(
            videos=videos,
            texts=texts,
            out=out,
            tokenizer=tokenizers.text,
            frame_tokenizer=tokenizers.frames,
            vocabulary=vocabulary,
            config=run.prepare,
            configuration=to_json(run),
            on_progress=lambda done, total: progress.update(done, total=total),
        )
        tokenizers.save(out / TOKENIZER_FOLDER)
        write_json_atomic(out / REPORT_FILE, to_json(report))
    return report
