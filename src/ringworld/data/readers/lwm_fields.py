r"""LWM's own lines (LargeWorldModel/LWM, `lwm/data.py`): fields that another program laid out and encoded.

    {"fields": "[instruction],[vision],output", "instruction": "...", "vision": [5, 17, ...], "output": "..."}

`fields` names the keys in the order in which they follow each other; those in brackets carry no loss, and of
several such lists one is drawn. Text keys that `+` joins are joined by a blank. A key whose name holds
`vision` is a list of codes, those of each frame in raster order, without any ends of frames.
"""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from ringworld.data.readers.location import Location
from ringworld.data.samples import CodedClip, Part
from ringworld.text.read_text import is_text

_SPECIAL = ("<|bos|>", "<|eos|>")


def parse_fields(record: Mapping[str, Any], location: Location, *, seed: str) -> tuple[Part, ...]:
    """Return what the fields of a record hold, in their order.

    Args:
        record: of LWM's form.
        location: where it stands.
        seed: decides which of several layouts is drawn, as LWM draws one by the number of the line.

    Raises:
        InputError: `fields` or what it names is of another form.
    """
    layout = record["fields"]
    if isinstance(layout, list) and layout:
        layout = Random(seed).choice(layout)
    if not is_text(layout) or not layout.strip():
        raise location.wrong("has no names in fields", field="fields", value=layout)
    parts = tuple(part for name in layout.split(",") for part in _field(name.strip(), record, location))
    if not any(part.loss for part in parts):
        raise location.wrong("has no field with loss", field="fields", value=layout)
    return parts


def _field(name: str, record: Mapping[str, Any], location: Location) -> Iterator[Part]:
    loss = not (name.startswith("[") and name.endswith("]"))
    name = name if loss else name[1:-1]
    if name in _SPECIAL:
        problem = f"names {name} in fields: an example begins and ends by itself"
        raise location.wrong(problem, field="fields", value=name, remedy="leave it out")
    texts: list[str] = []
    for key in name.split("+"):
        value = record.get(key)
        if "vision" in key:
            if texts:
                yield Part(content=" ".join(texts), loss=loss)
                texts = []
            yield Part(content=CodedClip(codes=_codes(value, key, location)), loss=loss)
        elif is_text(value):
            texts.append(value)
        else:
            raise location.wrong(f"has no text in {key}, which fields names", field=key, value=value)
    if texts:
        yield Part(content=" ".join(texts), loss=loss)


def _codes(value: Any, key: str, location: Location) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(code) is int for code in value):
        raise location.wrong(f"has no list of codes in {key}", field=key, value=value)
    return tuple(value)
