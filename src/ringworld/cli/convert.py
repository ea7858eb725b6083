"""`ringworld convert`: a model of another program to a model folder, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ringworld.cli.options import otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Convert:
    """Turn a GGUF file or a folder of Hugging Face's into a model folder, or that into a plain one."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """GGUF file, or folder with config.json and safetensors, such as a model folder."""
    out: Path
    """Folder to write."""
    to: Literal["ringworld", "hf"] = "ringworld"
    """A model folder, or a plain one of Hugging Face's: the same weights without what is ringworld's own."""
    tokenizer: Annotated[Path | None, otherwise("the model's own", metavar="PATH")] = None
    """Folder with a tokenizer.json to use instead of the model's own."""
    add_vision: Annotated[Path | None, otherwise("the model stays as it is", metavar="PATH")] = None
    """Folder of a frame tokenizer with which a model of text shall see; it gains ids for its codes."""
    vision: Literal["keep", "drop"] = "keep"
    """Keep the ids of vision and the frame tokenizer that the model has, or leave them out."""

    def run(self) -> None:
        """Convert, and print the folder."""
        import ringworld as rw

        print(
            rw.convert(
                self.source,
                out=self.out,
                to=self.to,
                tokenizer=self.tokenizer,
                add_vision=self.add_vision,
                vision=self.vision,
            )
        )
