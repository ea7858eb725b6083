"""Documents in which many needles are hidden, each with a conversation that asks for them.

out/texts/copied/document_00000.txt      and document_00000.json: words to be written again
out/texts/512/document_00000.txt         and document_00000.json with its questions
out/texts/held_out/document_00000.txt    such documents that are not trained on
out/texts/held_out/haystack_00000.txt    filler alone, which hides the needles of the evaluation
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from ringworld.core.config import to_json
from ringworld.core.files import write_json_atomic, write_text_atomic
from ringworld.core.origin import Origin, claim
from ringworld.data.samples import Question
from ringworld.data.sidecars import Sidecar
from ringworld.data.sources import HELD_OUT_FOLDER
from ringworld.quickstart.config import NeedleWorldConfig
from ringworld.quickstart.toy_documents import WORDS, as_text, filler, needle_question
from ringworld.text import needles

_TEMPLATE_TOKENS, _FACT_TOKENS, _TURN_TOKENS = 28, 17, 30
"""Of what surrounds a document, a needle, and a question with its answer: a token each word and digit."""
_MOST_ASKED_TOGETHER = 2
_TOGETHER_FRACTION = 0.4
_ALIKE_FRACTION = 0.5
"""Of the documents: their numbers begin alike, so that the next digit does not follow from those before."""
_COPY, _COPY_TOKENS = "Write the text again.", 8
_COPIED_WORDS = (*needles.CITIES, *WORDS)
_FEWEST_COPIED, _MOST_DIGITS = 4, 3
_NUMBERS_FRACTION = 0.15
"""Of what is copied."""


def write_needle_documents(
    out: Path,
    config: NeedleWorldConfig,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the documents of `config` under `out`, and return their folder; files that are there are kept.

    Every file follows from the seed, its length and its number. After each document, `on_progress` gets the
    number of those done and of all.

    Raises:
        InputError: `out` holds other documents.
    """
    claim(out, Origin(kind="toy world", identity=to_json(config)))
    texts = out / "texts"
    for index in range(config.haystacks):
        hay = filler(Random(f"{config.seed} haystack {index}"), config.haystack_words)
        _write(texts / HELD_OUT_FOLDER / f"haystack_{index:05d}", " ".join(hay), ())
    middle = config.lengths_tokens[len(config.lengths_tokens) // 2]
    for index in range(config.held_out):
        document = write_needle_document(Random(f"{config.seed} held out {index}"), middle, config)
        _write(texts / HELD_OUT_FOLDER / f"document_{index:05d}", *document)
    kinds: list[tuple[str, int, Callable[[Random], tuple[str, tuple[Question, ...]]]]] = [
        ("copied", config.copied, partial(write_copied_document, tokens=min(config.lengths_tokens)))
    ]
    for tokens, documents in zip(config.lengths_tokens, config.documents):
        kinds.append((str(tokens), documents, partial(write_needle_document, tokens=tokens, config=config)))
    numbered = [(name, index, write) for name, documents, write in kinds for index in range(documents)]
    for done, (name, index, write) in enumerate(numbered, start=1):
        document = write(Random(f"{config.seed} {name} {index}"))
        _write(texts / name / f"document_{index:05d}", *document)
        on_progress(done, len(numbered))
    return texts


def write_needle_document(
    random: Random, tokens: int, config: NeedleWorldConfig
) -> tuple[str, tuple[Question, ...]]:
    """Write a document that, with its conversation, has about so many tokens and no more.

    A dense one holds as many needles as fit and asks for all; any other hides a few of them in filler.
    """
    most = min((tokens - _TEMPLATE_TOKENS) // (_FACT_TOKENS + _TURN_TOKENS), len(needles.CITIES))
    if random.random() < config.dense_fraction:
        facts = asked = most
    else:
        facts = random.randint(1, min(config.most_sparse_facts, most))
        asked = random.randint(1, facts)
    numbers = _numbers(random, facts)
    sentences: list[str] = []
    room = tokens - _TEMPLATE_TOKENS - facts * _FACT_TOKENS - asked * _TURN_TOKENS
    while room > 0:
        (sentence,) = filler(random, 1)
        room -= sentence.count(" ") + 2
        if room >= 0:
            sentences.append(sentence)
    for city, number in numbers.items():
        sentences.insert(random.randint(0, len(sentences)), needles.needle(city, number))
    return as_text(sentences), tuple(_questions(random, random.sample(list(numbers), asked), numbers))


def write_copied_document(random: Random, tokens: int) -> tuple[str, tuple[Question, ...]]:
    """Write words at random that, with the same as the answer, have so many tokens at most.

    Copying looks up what stands behind the words that were written last, as recall does: where it was learned
    first, recall was there untaught (docs/log.md).
    """
    room = random.randint(_FEWEST_COPIED, (tokens - _TEMPLATE_TOKENS - _COPY_TOKENS) // 2)
    words = []
    for word in random.sample(_COPIED_WORDS, min(room, len(_COPIED_WORDS))):
        if random.random() < _NUMBERS_FRACTION:
            word = str(random.randrange(10 ** random.randint(1, _MOST_DIGITS)))
        room -= 1 + len(word) if word.isdigit() else 1
        if room >= 0:
            words.append(word)
    text = " ".join(words)
    return text, (Question(question=_COPY, answer=text),)


def _numbers(random: Random, count: int) -> dict[str, str]:
    cities = random.sample(needles.CITIES, count)
    alike = random.randint(1, 6) if random.random() < _ALIKE_FRACTION else 0
    begin = str(random.randrange(10**6, 10**7))[:alike]
    return {city: begin + str(random.randrange(10**6, 10**7))[alike:] for city in cities}


def _questions(random: Random, cities: list[str], numbers: dict[str, str]) -> list[Question]:
    asked = []
    while cities:
        together = _MOST_ASKED_TOGETHER if random.random() < _TOGETHER_FRACTION else 1
        some, cities = cities[:together], cities[together:]
        asked.append(needle_question(some, numbers))
    return asked


def _write(stem: Path, text: str, questions: tuple[Question, ...]) -> None:
    document, sidecar = stem.with_suffix(".txt"), stem.with_suffix(".json")
    if not (document.exists() and sidecar.exists()):
        write_json_atomic(sidecar, to_json(Sidecar(questions=questions)))
        write_text_atomic(document, text)
