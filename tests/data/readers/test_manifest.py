import json
from pathlib import Path

from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.data.quarantine import Quarantined
from ringworld.data.sidecars import Sidecar

CONFIG = PrepareConfig(held_out_fraction=0.0)


def test_a_manifest_says_what_of_its_folder_is_used(tmp_path: Path, write_clip):
    folder = tmp_path / "set"
    write_clip(folder / "in/a.mp4", said={"caption": "Not this."})
    write_clip(folder / "b.png")
    write_clip(folder / "c.png")
    write_clip(tmp_path / "d.png", said={"caption": "Beside."})
    lines = [
        {"file": "in/a.mp4", "caption": "A dog.", "rating": 3},
        {"file": "in/a.mp4"},
        {"file": "b.png"},
        {"file": "lost.png"},
        {"file": 3},
        {"caption": "Of what?"},
        {"file": "c.png", "caption": 3},
    ]
    (folder / "manifest.jsonl").write_text("\n".join([*map(json.dumps, lines), "{"]))
    unused: list[Quarantined] = []
    found = find_sources(videos=[tmp_path], config=CONFIG, quarantined=unused)
    assert {source.relative: source.said for source in found} == {
        "set/in/a.mp4": Sidecar(caption="A dog."),
        "set/b.png": Sidecar(),
        "d.png": None,
    }
    bad = {f"set/manifest.jsonl#{number}" for number in (2, 4, 5, 6, 7, 8)}
    assert {item.path for item in unused} == bad | {"set/c.png", "set/in/a.json"}
