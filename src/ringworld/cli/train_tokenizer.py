"""`ringworld train-tokenizer`: a byte-level BPE and a VQGAN from a user's files."""

from dataclasses import dataclass, field
from pathlib import Path

from ringworld.cli.options import ConfigOptions, Folders
from ringworld.core.files import only_one


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainTokenizer:
    """Train the text tokenizer (byte-level BPE) and the frame tokenizer (VQGAN) on your files."""

    out: Path
    """Folder for the two tokenizers: OUT/text and OUT/frames."""
    videos: tuple[Path, ...]
    """Folders or files of videos and images."""
    texts: Folders = ()
    """Folders or files of text; captions and questions beside the videos are used in any case."""
    configuration: ConfigOptions = field(default_factory=ConfigOptions)

    def run(self) -> None:
        """Train both, and print what they reach on frames and texts not trained on."""
        from ringworld.cli.jobs.tokenizers import train_tokenizers

        run = self.configuration.load()
        with only_one(self.out):
            report = train_tokenizers(run, videos=self.videos, texts=self.texts, out=self.out)
        print(
            f"text: {report.text_vocabulary} ids, {report.text_bytes_per_token:.2f} bytes a token of "
            f"{report.text_judged_on}"
        )
        print(
            f"frames: {report.frames.psnr_db:.2f} dB PSNR on {report.held_out_frames} held-out frames "
            f"of {report.held_out_of}, {report.frames.codebook_usage:.0%} of the codebook in use"
        )
        if report.unlike.psnr_db is not None:
            print(
                f"of them, {report.unlike.frames} unlike all that were trained on: "
                f"{report.unlike.psnr_db:.2f} dB"
            )
        for item in report.quarantined:
            print(f"set aside: {item.path}: {item.reason}")
