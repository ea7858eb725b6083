"""From texts to conversations of questions about long contexts, which another model writes.

After section 3 of the paper of LWM (arXiv 2402.08268): a model is shown passages of about 1,000 tokens and
writes one question with its answer about each. Passages that follow each other are joined to a long context,
at whose end stand the questions. What is written is read by `prepare` as conversations; the answers alone
carry loss.

    OUT/long_qa/conversations.jsonl             to train on
    OUT/long_qa/held_out/conversations.jsonl    about what is held out
    OUT/replies.jsonl                           what was asked and paid for
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.core.files import write_jsonl_atomic
from ringworld.data.config import Split
from ringworld.data.find_sources import RECORD_READERS, find_sources
from ringworld.data.qa.config import QaConfig
from ringworld.data.qa.joining import AskedPassage, JoinedConversation, conversations
from ringworld.data.qa.pairs import Pair, pair_of, prompt
from ringworld.data.qa.passages import Passage, passages_of
from ringworld.data.qa.replies import Refusal, RefusedError, Replies
from ringworld.data.quarantine import Quarantined, nothing_usable, quarantine
from ringworld.data.sources import HELD_OUT_FOLDER, Reader
from ringworld.text import chat
from ringworld.text.tokenizer import TextTokenizer

FOLDER, REPLIES_FILE = "long_qa", "replies.jsonl"
_FILE = "conversations.jsonl"
_MILLION = 1_000_000
_MOST_REFUSED = 32
"""Requests that may be refused before any reply: passages may be of a kind that is not answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QaEstimate:
    """What is asked, before it is; requests that are repeated since the endpoint is busy count once."""

    passages: int
    requests: int
    """One for each passage that has neither a usable question nor all of its attempts."""
    most_requests: int
    """Where no further reply is usable, so that each attempt is made."""
    most_prompt_tokens: int
    """Of these, by our tokenizer; the endpoint's may count a few more or fewer."""
    most_reply_tokens: int
    most_cost: float
    """Where each reply is as long as it may be, by the prices of the configuration."""

    def lines(self) -> list[str]:
        """Return the estimate as lines to read."""
        more = f", and up to {self.most_requests} where replies cannot be used"
        return [
            f"{self.requests} requests for {self.passages} passages"
            + more * (self.most_requests > self.requests),
            f"at most about {self.most_prompt_tokens} tokens of prompts and {self.most_reply_tokens} of "
            f"replies, which cost at most {self.most_cost:.2f}",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCount:
    """The conversations of one length."""

    context_tokens: int
    split: Split
    conversations: int
    questions: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QaReport:
    """What was asked, and what came of it."""

    estimate: QaEstimate
    requests: int
    """That this call made."""
    prompt_tokens: int
    """Of these requests, as the endpoint counts them."""
    reply_tokens: int
    questions: int
    """Passages with a usable question."""
    rejected: dict[str, int]
    """Passages without, by what was wrong with the last reply."""
    contexts: tuple[ContextCount, ...]
    quarantined: tuple[Quarantined, ...]

    def lines(self) -> list[str]:
        """Return the report as lines to read; of a dry run, what could not be read alone."""
        unread = [f"quarantined: {item.path}: {item.reason}" for item in self.quarantined]
        if not self.contexts:
            return unread
        return [
            f"asked: {self.requests} requests, {self.prompt_tokens} tokens of prompts and "
            f"{self.reply_tokens} of replies",
            f"questions: {self.questions} of {self.estimate.passages} passages",
            *(f"left out: {many} passages, whose question is {why}" for why, many in self.rejected.items()),
            *(
                f"{one.split}, up to {one.context_tokens} tokens: {one.conversations} conversations, "
                f"{one.questions} questions, {one.tokens} tokens"
                for one in self.contexts
            ),
            *unread,
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    key: str
    split: Split
    passages: tuple[Passage, ...]


def make_qa(
    texts: Sequence[Path],
    *,
    out: Path,
    tokenizer: TextTokenizer,
    replies: Replies,
    config: QaConfig,
    readers: Mapping[str, Reader] = RECORD_READERS,
    on_estimate: Callable[[QaEstimate], None] = lambda estimate: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> QaReport:
    """Ask for what is not asked yet, and write the conversations under `out`, whole or not at all.

    Args:
        texts: folders or files of text, as for `prepare`.
        out: folder to write.
        tokenizer: in whose tokens passages and contexts are measured.
        replies: of the model that writes.
        config: how much is asked, and how it is joined.
        readers: of files by the end of their names.
        on_estimate: called before anything is asked.
        on_progress: called with the number of passages that are done, and of all.

    Raises:
        InputError: a path is missing, there is no text, the endpoint refuses, or no question is usable.
    """
    unusable: list[Quarantined] = []
    documents = list(_documents(texts, tokenizer, config, readers, unusable))
    passages = [passage for document in documents for passage in document.passages]
    if not passages:
        raise nothing_usable(", ".join(map(str, texts)), unusable, field="texts")
    estimate = _estimate(passages, tokenizer, replies, config)
    on_estimate(estimate)
    pairs = [] if config.dry_run else _ask(passages, replies, config, on_progress)
    asked = [AskedPassage(passage=passage, asked=pair.asked) for passage, pair in zip(passages, pairs)]
    usable = sum(one.asked is not None for one in asked)
    rejected = Counter(pair.rejected for pair in pairs if pair.rejected is not None)
    if pairs and not usable:
        reasons = ", ".join(f"{many} {why}" for why, many in rejected.items())
        problem = f"no reply of {config.model} is usable ({reasons})"
        raise InputError(
            problem, field="model", value=config.model, remedy="use a model that follows instructions"
        )
    return QaReport(
        estimate=estimate,
        requests=len(replies.asked),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies.asked),
        reply_tokens=sum(reply.reply_tokens for reply in replies.asked),
        questions=usable,
        rejected=dict(sorted(rejected.items())),
        contexts=tuple(_write(out, documents, asked, tokenizer, config)) if pairs else (),
        quarantined=tuple(unusable),
    )


def _documents(
    texts: Sequence[Path],
    tokenizer: TextTokenizer,
    config: QaConfig,
    readers: Mapping[str, Reader],
    unusable: list[Quarantined],
) -> Iterator[_Document]:
    reading = config.reading()
    for source in find_sources(texts=texts, config=reading, readers=readers, quarantined=unusable):
        with quarantine(source.relative, into=unusable):
            for sample in source.reader.read(source, config=reading, quarantined=unusable):
                if sample.text is not None and sample.text.strip():
                    passages = passages_of(
                        sample.text,
                        passage_tokens=config.passage_tokens,
                        count_tokens=lambda text: len(tokenizer.encode(text)),
                    )
                    key = f"{source.dataset}/{sample.key}"
                    yield _Document(key=key, split=sample.split, passages=tuple(passages))


def _estimate(
    passages: Sequence[Passage], tokenizer: TextTokenizer, replies: Replies, config: QaConfig
) -> QaEstimate:
    left = [_attempts_left(passage, replies, config) for passage in passages]
    around = len(tokenizer.encode(prompt("")))
    read = sum(count * (around + passage.tokens) for count, passage in zip(left, passages))
    written = sum(left) * config.max_reply_tokens
    return QaEstimate(
        passages=len(passages),
        requests=sum(count > 0 for count in left),
        most_requests=sum(left),
        most_prompt_tokens=read,
        most_reply_tokens=written,
        most_cost=(read * config.input_price + written * config.output_price) / _MILLION,
    )


def _attempts_left(passage: Passage, replies: Replies, config: QaConfig) -> int:
    for attempt in range(config.attempts):
        known = replies.known(prompt(passage.text), attempt=attempt)
        if known is None:
            return config.attempts - attempt
        if isinstance(known, Refusal) or pair_of(known.text, passage=passage.text).asked is not None:
            break
    return 0


def _ask(
    passages: Sequence[Passage], replies: Replies, config: QaConfig, on_progress: Callable[[int, int], None]
) -> list[Pair]:
    def pair(passage: Passage) -> Pair:
        made = Pair()
        for attempt in range(config.attempts):
            try:
                reply = replies.ask(prompt(passage.text), attempt=attempt)
            except RefusedError:
                if not len(replies) and replies.refused >= min(_MOST_REFUSED, len(passages)):
                    raise  # it may refuse them all
                return Pair(rejected="refused by the endpoint")
            made = pair_of(reply.text, passage=passage.text)
            if made.asked is not None:
                break
        return made

    pairs: list[Pair] = []
    with ThreadPoolExecutor(config.requests_at_once) as pool:
        try:
            for made in pool.map(pair, passages):
                pairs.append(made)
                on_progress(len(pairs), len(passages))
        except BaseException:
            replies.stop()  # what is asked already is waited for, and kept
            raise
    return pairs


def _write(
    out: Path,
    documents: Sequence[_Document],
    asked: Sequence[AskedPassage],
    tokenizer: TextTokenizer,
    config: QaConfig,
) -> Iterator[ContextCount]:
    """Write the conversations of each split, and yield how many there are of each length."""

    def count_tokens(segments: chat.Segments) -> int:
        return len(chat.encode_words(segments, tokenizer=tokenizer).tokens)

    splits: tuple[tuple[Split, Path], ...] = (
        ("train", out / FOLDER / _FILE),
        ("held_out", out / FOLDER / HELD_OUT_FOLDER / _FILE),
    )
    for split, path in splits:
        written: dict[JoinedConversation, None] = {}
        for length in sorted(config.context_tokens):
            made: list[JoinedConversation] = []
            rest = iter(asked)
            for document in documents:
                own = [next(rest) for _ in document.passages]
                if document.split == split:
                    seed = f"{config.seed} {document.key}"
                    made += conversations(own, context_tokens=length, seed=seed, count_tokens=count_tokens)
            # What fits into a shorter context is there already.
            new = [one for one in made if one not in written]
            written |= dict.fromkeys(new)
            yield ContextCount(
                context_tokens=length,
                split=split,
                conversations=len(new),
                questions=sum(one.questions for one in new),
                tokens=sum(one.tokens for one in new),
            )
        if written:
            write_jsonl_atomic(path, (one.to_json() for one in written))
        else:
            path.unlink(missing_ok=True)
