r"""`manifest.jsonl` in a folder of videos or images: what of the folder is used, and what is said of each.

    {"file": "clips/0001.mp4", "caption": "A red ball.", "questions": [{"question": "...", "answer": "..."}]}

Paths are relative to the manifest. A manifest takes the place of sidecars in its folder and all below.
"""

from collections.abc import Iterator
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.sidecars import Sidecar, parse_sidecar
from ringworld.text.read_text import is_text, read_lines

MANIFEST_NAME = "manifest.jsonl"


def read_media_manifest(
    manifest: Path, name: str, config: PrepareConfig, *, into: list[Quarantined]
) -> Iterator[tuple[Path, Sidecar]]:
    """Yield each file that a manifest names and what it says of it; bad lines are appended to `into`.

    Args:
        manifest: the file.
        name: what the quarantine calls it.
        config: the longest line.
        into: lines that cannot be used, a file that is named twice among them.
    """
    seen: set[Path] = set()
    with quarantine(name, into=into):
        for line in read_lines(manifest, longest=config.max_text_bytes):
            with quarantine(f"{name}#{line.number}", into=into):
                part = f"line {line.number}"
                if line.problem:
                    raise InputError(f"in {manifest}, {line.problem}", path=manifest, field=part)
                file = line.value.get("file")
                if not is_text(file) or not file or "\0" in file:
                    problem = f'in {manifest}, {part} has no "file"'
                    raise InputError(problem, path=manifest, field=f"{part}.file", value=file)
                path = manifest.parent / file
                if not path.is_file():
                    problem = f"in {manifest}, {part} names {path}, which is no file"
                    raise InputError(problem, path=manifest, field=f"{part}.file", value=file)
                if path in seen:
                    problem = f"in {manifest}, {part} names {path} again"
                    raise InputError(problem, path=manifest, field=f"{part}.file", value=file)
                seen.add(path)
                yield path, parse_sidecar(line.value, path=manifest, part=part)
