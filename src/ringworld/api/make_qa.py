"""`ringworld.make_qa`: questions about long texts, which another model writes."""

import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from ringworld.api.machine import PathArgument, Paths, as_local, as_paths, check_apart
from ringworld.core.config import to_json
from ringworld.core.files import write_json_atomic
from ringworld.core.origin import Origin, claim, working_in
from ringworld.core.packages import import_optional
from ringworld.core.progress import Progress
from ringworld.data.find_sources import RECORD_READERS
from ringworld.data.qa.config import QaConfig
from ringworld.data.qa.make import REPLIES_FILE, QaEstimate, QaReport
from ringworld.data.qa.make import make_qa as write_qa
from ringworld.data.qa.replies import Replies
from ringworld.data.sources import Reader
from ringworld.text.tokenizer import TextTokenizer

REPORT_FILE = "report.json"


def make_qa(
    texts: Paths,
    *,
    tokenizer: PathArgument,
    out: PathArgument,
    config: QaConfig,
    readers: Mapping[str, Reader] = RECORD_READERS,
) -> QaReport:
    """Have a model write a question about each part of texts, and join them to conversations about long ones.

    What it would cost stands on stderr before anything is asked. Each reply is kept in `out`, so that a call
    that was interrupted asks nothing twice, and other contexts cost nothing. `prepare` reads `out/long_qa`.

    Args:
        texts: folders or files of text, as `prepare` reads them.
        tokenizer: tokenizer folder or model folder, in whose tokens lengths are counted.
        out: folder to write.
        config: which model writes, of how much text each question is, and how long the contexts are.
        readers: of files by the end of their names, as for `prepare`.

    Raises:
        InputError: a path is missing, there is no text, the endpoint cannot be reached, refuses, or writes
            nothing usable, or the package `httpx2` is not installed.
    """
    import_optional("httpx2", extra="qa", use="asking a model", field="address")
    from ringworld.data.qa.endpoint import Endpoint

    texts, out = as_paths(texts), Path(out)
    check_apart(out, texts)
    words = TextTokenizer.load(Path(tokenizer))
    key = os.environ.get(config.key_variable) or None
    with working_in(out, kind="questions"), closing(Endpoint(config, key=key)) as endpoint:
        claim(out, Origin(kind="questions", configuration=to_json(config)))
        with Progress("make-qa", total=1, unit="passages") as progress:
            report = write_qa(
                as_local(texts, out=out),
                out=out,
                tokenizer=words,
                replies=Replies(out / REPLIES_FILE, endpoint),
                config=config,
                readers=readers,
                on_estimate=_show,
                on_progress=lambda done, total: progress.update(done, total=total),
            )
        write_json_atomic(out / REPORT_FILE, to_json(report))
    return report


def _show(estimate: QaEstimate) -> None:
    print("\n".join(f"make-qa: {line}" for line in estimate.lines()), file=sys.stderr, flush=True)
