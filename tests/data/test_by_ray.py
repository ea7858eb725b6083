"""Ray is no part of the default environment: `pip install 'ringworld[ray]'` runs these."""

import json
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.progress import Done
from ringworld.data.recipes import RECIPES

ANSWER = {"role": "assistant", "content": "A square."}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "origin.json"  # which says by which command
    }


def test_without_the_package_the_engine_is_refused(tmp_path: Path, run_prepare, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    (tmp_path / "a.txt").write_text("The old man walks to the river.")
    with pytest.raises(InputError) as refused:
        run_prepare(tmp_path / "out", texts=(tmp_path / "a.txt",), engine="ray")
    assert refused.value.field == "engine"


@pytest.fixture(scope="module")
def ray():
    found = pytest.importorskip("ray")
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()


@pytest.mark.filterwarnings("default")  # of Ray itself
def test_the_bytes_are_those_of_the_pool_for_every_kind(
    ray, tmp_path: Path, run_prepare, toy_world, write_clip
):
    config = PrepareConfig(files_per_shard=2, bytes_per_shard=9000, max_frames=4, document_tokens=600)
    more = tmp_path / "more"
    more.mkdir()
    (more / "bad.txt").write_bytes(b"\xff")
    write_clip(more / "a.mp4", frames=9)
    questions = [{"question": "What is it?", "answer": "A square."}]
    write_clip(more / "b.png", said={"caption": "A dark square.", "questions": questions})
    said = [
        [{"role": "user", "content": [*shown, {"type": "text", "text": "What is it?"}]}, ANSWER]
        for shown in ([], [{"type": "image", "image": "b.png"}], [{"type": "video", "video": "a.mp4"}])
    ]
    laid = {"fields": "[vision],output", "vision": [0, 1, 2, 3], "output": "Four codes."}
    records = [*({"messages": messages} for messages in said), laid]
    (more / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    documents = [{"text": f"The old man walks to river {number}. " * 9} for number in range(60)]
    (more / "large.jsonl").write_text("\n".join(map(json.dumps, documents)))
    inputs = {"videos": (toy_world.videos, more), "texts": (toy_world.texts, more), "config": config}
    shown: list[Done] = []
    reports: list[PrepareReport] = [
        run_prepare(tmp_path / "pool", workers=1, **inputs),
        run_prepare(
            tmp_path / "ray",
            workers=2,
            engine="ray",
            on_progress=shown.append,
            **inputs,
        ),
    ]
    assert contents(tmp_path / "pool") == contents(tmp_path / "ray")
    assert {one.kind for one in reports[0].parts} == {recipe.kind for recipe in RECIPES}
    assert reports[0].parts == reports[1].parts and reports[1].failed_on_ray == 0
    assert reports[0].quarantined == reports[1].quarantined != ()
    assert shown[-1].files == shown[-1].total > reports[0].files  # parts of a large one
    again = run_prepare(tmp_path / "ray", engine="ray", **inputs)
    assert again.shards_made == 0
