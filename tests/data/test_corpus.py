import json
from dataclasses import replace
from pathlib import Path

from ringworld.data.config import PrepareConfig
from ringworld.data.corpus import corpus
from ringworld.data.examples import ExampleMaker
from ringworld.data.file_examples import Problems, Tools, prepare_file
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import find_sources
from tests.data.conftest import QUARTERS

QUESTIONS = [{"question": "Who?", "answer": "Anna"}]


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
    texts = list(corpus(sources, config=config, quarantined=bad))
    assert {split for _, split in texts} == {"train"}
    words_of = [words for words, _ in texts]
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
    tools = Tools(
        maker=ExampleMaker(tokenizer=tokenizer, vocabulary=vocabulary, config=config),
        frame_tokenizer=QUARTERS,
        frame_tokenizer_fingerprint="",
        resolution=32,
    )
    words: dict[str, set[str]] = {"train": set(), "held_out": set()}
    learnt: dict[str, str] = {"train": "", "held_out": ""}
    for text, split in corpus(sources, config=config, quarantined=[]):
        words[split] |= set(text.split())
    for source in sources:
        for example, split in prepare_file(source, tools, Problems(quarantined=[])):
            text = tokenizer.decode(example.tokens.tolist())
            learnt[split] += f"{text}\n" if example.source.startswith("lines") else text
    assert not words["train"] & words["held_out"]
    assert {"word0", "word319"} <= words["train"] and "word399" in words["held_out"]
    assert 2 <= sum(word.startswith("line") for word in words["held_out"]) <= 16
    for split in ("train", "held_out"):
        assert words[split] == set(learnt[split].split())
