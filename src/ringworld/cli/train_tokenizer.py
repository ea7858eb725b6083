"""`ringworld train-tokenizer`: a byte-level BPE and a VQGAN from a user's files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ringworld.cli.options import ConfigFolder, Folders, PresetName, given, otherwise
from ringworld.presets.run import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainTokenizer:
    """Train the text tokenizer (byte-level BPE) and, where the run sees frames, a frame tokenizer (VQGAN)."""

    out: Path
    """Folder for the tokenizers."""
    videos: Folders = ()
    """Folders or files of videos and images, with captions and questions beside them."""
    texts: Folders = ()
    """Folders or files of text (.txt, .md) or of JSON lines with a field "text"."""
    text_tokenizer: Annotated[Path | None, otherwise("one is trained", metavar="PATH")] = None
    """Tokenizer folder or model folder whose text tokenizer is taken over."""
    preset: PresetName = None
    config: ConfigFolder = None

    def run(self, config: RunConfig) -> None:
        """Train, and print what the tokenizers reach on frames and texts not trained on."""
        import ringworld as rw

        report = rw.train_tokenizer(config, **given(self, "videos", "texts", "text_tokenizer", "out"))
        print("\n".join(report.lines()))
