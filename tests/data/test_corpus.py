import json
from pathlib import Path

from ringworld.data.config import PrepareConfig
from ringworld.data.corpus import corpus
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import find_sources

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
    texts = list(corpus(sources, split="train", config=config, quarantined=bad))
    assert {"Anna runs.", "One.", "Two.", "A dog."} <= set(texts)
    joined = "\n".join(texts)
    for words in (
        "USER: Generate a video of a dog ASSISTANT:",
        "USER: Who?\n ASSISTANT: Anna",
        "Who? Don't give information outside the document",
    ):
        assert words in joined
    assert [item.path for item in bad] == ["d.txt"]
    assert not list(corpus(sources, split="held_out", config=config, quarantined=bad))
