import json
from dataclasses import replace
from pathlib import Path

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.corpus import corpus
from ringworld.data.examples import Example
from ringworld.data.find_sources import find_sources
from ringworld.data.making import ExampleMaker, Problems
from ringworld.data.quarantine import Quarantined
from ringworld.data.readers.records import LINES
from ringworld.data.sources import Source
from tests.data.conftest import QUARTERS

QUESTIONS = [{"question": "Who?", "answer": "Anna"}]


def maker_of(config: PrepareConfig, tokenizer, vocabulary) -> ExampleMaker:
    return ExampleMaker(tokenizer=tokenizer, vocabulary=vocabulary, config=config, frame_tokenizer=QUARTERS)


def prepare_file(source: Source, maker: ExampleMaker, problems: Problems) -> list[tuple[Example, Split]]:
    groups = maker.of_files([source], problems)
    return [(unfilled.example, group.split) for group in groups for unfilled in group.examples]


def test_a_corpus_holds_documents_captions_and_questions_in_the_words_of_the_prompts(tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.json").write_text(json.dumps({"caption": "A dog.", "questions": QUESTIONS}))
    (tmp_path / "b.txt").write_text("Anna runs.")
    (tmp_path / "b.json").write_text(json.dumps({"questions": QUESTIONS}))
    (tmp_path / "c.jsonl").write_text('{"text": "One."}\n{\n{"text": "Two."}\n')
    (tmp_path / "d.txt").write_bytes(b"\xff")
    config = PrepareConfig(held_out_fraction=0.0)
    sources = find_sources(videos=[tmp_path], texts=[tmp_path], config=config)
    bad: list[Quarantined] = []
    words_of = list(corpus(sources, split="train", config=config, quarantined=bad))
    assert list(corpus(sources, split="held_out", config=config, quarantined=[])) == []
    assert {"Anna runs.", "One.", "Two.", "A dog."} <= set(words_of)
    joined = "\n".join(words_of)
    for words in (
        "USER: Generate a video of a dog ASSISTANT:",
        "USER: Who?\n ASSISTANT: Anna",
        "Who? Don't give information outside the document",
    ):
        assert words in joined
    assert sorted(item.path for item in bad) == ["c.jsonl#2", "d.txt"]


def test_the_held_out_end_of_a_book_and_the_held_out_lines_are_no_text_to_train_on(
    tmp_path: Path, tokenizer, vocabulary
):
    """The tokenizer's corpus and the model's examples agree on what is held out."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/book.txt").write_text(" ".join(f"word{index}" for index in range(400)) + "\n")
    lines = [json.dumps({"text": f"line{index}."}) for index in range(40)]
    (tmp_path / "in/lines.jsonl").write_text("\n".join(lines))
    config = PrepareConfig(document_tokens=64, held_out_fraction=0.2)
    sources = [
        replace(source, split="train")
        for source in find_sources(videos=[], texts=[tmp_path / "in"], config=config)
    ]
    maker = maker_of(config, tokenizer, vocabulary)
    words: dict[Split, set[str]] = {"train": set(), "held_out": set()}
    examples: dict[Split, str] = {"train": "", "held_out": ""}
    for split in words:
        for text in corpus(sources, split=split, config=config, quarantined=[]):
            words[split] |= set(text.split())
    for source in sources:
        for example, split in prepare_file(source, maker, Problems(quarantined=[])):
            text = tokenizer.decode(example.tokens.tolist())
            examples[split] += f"{text}\n" if example.source.startswith("lines") else text
    assert not words["train"] & words["held_out"]
    assert {"word0", "word319"} <= words["train"] and "word399" in words["held_out"]
    assert 2 <= sum(word.startswith("line") for word in words["held_out"]) <= 16
    for split in ("train", "held_out"):
        assert words[split] == set(examples[split].split())


def test_nothing_of_a_held_out_file_is_trained_on(tmp_path: Path, tokenizer, vocabulary, write_clip):
    """A tokenizer or model that has seen it would be judged by what it knows."""
    config = PrepareConfig(document_tokens=64, held_out_fraction=0.1)
    said = {"caption": "A dog.", "questions": QUESTIONS}
    write_clip(tmp_path / "a.mp4", said=said)
    (tmp_path / "b.txt").write_text("Anna runs. " * 200)
    (tmp_path / "b.json").write_text(json.dumps(said))
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": f"Line {i}."}) for i in range(40)))
    maker = maker_of(config, tokenizer, vocabulary)
    for source in find_sources(videos=[tmp_path], texts=[tmp_path], config=config):
        held_out = replace(source, split="held_out")
        assert list(corpus([held_out], split="train", config=config, quarantined=[])) == []
        assert list(corpus([held_out], split="held_out", config=config, quarantined=[]))
        splits = [split for _, split in prepare_file(held_out, maker, Problems(quarantined=[]))]
        assert set(splits) == {"held_out"}


def test_no_question_is_asked_about_a_text_whose_end_is_held_out(tmp_path: Path, tokenizer, vocabulary):
    config = PrepareConfig(document_tokens=300, held_out_fraction=0.7)
    maker = maker_of(config, tokenizer, vocabulary)
    (tmp_path / "a.json").write_text(json.dumps({"questions": QUESTIONS}))
    for text, asked in (("Anna runs.", 1), ("Anna runs. " * 40, 0)):
        (tmp_path / "a.txt").write_text(text)
        (source,) = find_sources(texts=[tmp_path], config=config)
        problems = Problems(quarantined=[])
        made = list(prepare_file(source, maker, problems))
        assert {split for _, split in made} == ({"train"} if asked else {"train", "held_out"})
        assert sum(example.kind == "text_qa" for example, _ in made) == asked
        assert problems.questions_too_long == 1 - asked
        for split in ("train", "held_out"):
            words = "".join(corpus([source], split=split, config=config, quarantined=[]))
            assert ("Who?" in words) == (asked and split == "train")


def test_a_line_that_occurs_twice_is_in_one_split(tmp_path: Path):
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"Line {index % 20} of a file."}) for index in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    config = PrepareConfig(held_out_fraction=0.3)
    sources = [
        Source(path=path, relative=path.name, reader=LINES) for path in sorted(tmp_path.glob("*.jsonl"))
    ]
    train, held_out = (
        set(corpus(sources, split=split, config=config, quarantined=[])) for split in ("train", "held_out")
    )
    assert train and held_out and not train & held_out


def test_a_question_without_an_answer_is_left_out_and_counted(
    tmp_path: Path, tokenizer, vocabulary, write_clip
):
    asked = [*QUESTIONS, {"question": "Why?", "answer": " "}, {"question": "When?", "answer": None}]
    write_clip(tmp_path / "a.png", said={"caption": "A dog.", "questions": asked})
    config = PrepareConfig(held_out_fraction=0.0)
    (source,) = find_sources(videos=[tmp_path], config=config)
    problems = Problems(quarantined=[])
    made = [example for example, _ in prepare_file(source, maker_of(config, tokenizer, vocabulary), problems)]
    assert sum(example.kind == "image_qa" for example in made) == 1
    assert problems == Problems(quarantined=[], questions_unanswered=2)


def test_without_texts_a_corpus_is_empty(write_clip, tmp_path: Path):
    config = PrepareConfig(held_out_fraction=0.0)
    sources = find_sources(videos=[write_clip(tmp_path / "a.png")], config=config)
    for given in (sources, ()):
        assert list(corpus(given, split="train", config=config, quarantined=[])) == []
