"""Videos and images, with what is written beside them or in a manifest."""

from collections.abc import Iterator

from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import MediaFile, MediaForm, Sample
from ringworld.data.sidecars import read_sidecars
from ringworld.data.sources import Reader, Source
from ringworld.vision.media import check_video, read_image

_CHECKED_PIXELS = 8


class MediaReader(Reader):
    """A file of one video or one image."""

    holds, shows = "one", "pictures"

    def __init__(self, form: MediaForm) -> None:
        self.name: str = form
        self._form: MediaForm = form

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the one sample; its frames are read later."""
        said = source.said or read_sidecars(source.sidecars)
        yield Sample(
            key=source.relative,
            split=source.split,
            clip=MediaFile(path=source.path, form=self._form),
            caption=said.caption,
            questions=said.questions,
            unanswered=said.unanswered,
        )

    def check(self, source: Source, *, config: PrepareConfig) -> None:
        """Read what stands beside it, the image, or the beginning and the end of the video."""
        super().check(source, config=config)
        if self._form == "video":
            check_video(source.path)
        else:
            read_image(source.path, resolution=_CHECKED_PIXELS)


VIDEO, IMAGE = MediaReader("video"), MediaReader("image")
