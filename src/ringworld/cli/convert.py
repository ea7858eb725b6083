"""`ringworld convert`: a model of another program to a model folder, and back."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ringworld.cli.options import otherwise
from ringworld.model.config import StoredType
from ringworld.vision.config import PixelRange


@dataclass(frozen=True, kw_only=True, slots=True)
class Convert:
    """Turn a GGUF file, a folder of Hugging Face's or an adapter into a model folder, or a plain one."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """GGUF file, checkpoint of LWM, folder with config.json and safetensors, or adapter folder to merge."""
    out: Path
    """Folder to write."""
    to: Literal["ringworld", "hf"] = "ringworld"
    """A model folder, or a plain one of Hugging Face's: the same weights without what is ringworld's own."""
    tokenizer: Annotated[Path | None, otherwise("the model's own", metavar="PATH")] = None
    """Folder with a tokenizer.json to use instead of the model's own; LWM's have none."""
    add_vision: Annotated[Path | None, otherwise("the model stays as it is", metavar="PATH")] = None
    """Frame tokenizer with which a model of text shall see: a folder, or LWM's file vqgan."""
    vision: Literal["keep", "drop"] = "keep"
    """Keep the ids of vision and the frame tokenizer that the model has, or leave them out."""
    dtype: Annotated[StoredType | None, otherwise("as they are", metavar="float32|bfloat16")] = None
    """Type in which the weights are written."""
    context_tokens: Annotated[int | None, otherwise("as the model says", metavar="INT")] = None
    """Longest context of a checkpoint of LWM, which does not say it."""
    rope_base: Annotated[float | None, otherwise("as LWM's of this context", metavar="FLOAT")] = None
    """Base of RoPE of a checkpoint of LWM."""
    heads: Annotated[int | None, otherwise("as LWM's of this size", metavar="INT")] = None
    """Query heads of a checkpoint of LWM."""
    resolution: Annotated[int | None, otherwise("as its files say", metavar="INT")] = None
    """Side in pixels of a frame of the frame tokenizer that is added."""
    pixel_range: Annotated[PixelRange | None, otherwise("as its files say", metavar="unit|signed")] = None
    """What a VQModel of diffusers is fed: unit is [0, 1], as aMUSEd's, signed is [-1, 1]."""

    def run(self) -> None:
        """Convert, and print the folder."""
        import ringworld as rw

        options = {field.name: getattr(self, field.name) for field in fields(self)}
        print(rw.convert(options.pop("source"), **options))
