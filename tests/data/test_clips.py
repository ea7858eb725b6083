from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.data.clips import ClipCodes, ClipEncoder, count_shown, shown
from ringworld.data.config import ClipConfig, PrepareConfig
from ringworld.data.frame_batches import FrameBatches
from ringworld.data.frames import read_spread
from ringworld.data.samples import CodedClip, MediaFile, Sample
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.sampling import Thinned, evenly
from tests.data.conftest import QUARTERS

VOCABULARY = Vocabulary(text_size=100, codes=8, codes_per_frame=4)


def encoded(clip, *, caption: str | None = None, **config) -> list[ClipCodes]:
    """Return the codes of a clip: of footage, of which nothing is said, window after window."""
    sample = Sample(key="a", split="train", clip=clip, caption=caption)
    with closing(FrameBatches(QUARTERS)) as batches:
        clips = ClipEncoder(
            config=PrepareConfig(**config), vocabulary=VOCABULARY, frame_tokenizer=QUARTERS, batches=batches
        )
        read = clips.read(sample)
        batches.flush()
        return [clips.encoded(one) for together in read for one in together]


@pytest.mark.parametrize("most", [1, 4, 9, 30])
def test_codes_are_those_of_the_frames_that_stand_for_the_whole_video(tmp_path: Path, write_clip, most):
    # Longer than a batch of frames, so that what is thinned was encoded in several.
    clip = MediaFile(path=write_clip(tmp_path / "a.mp4", frames=31, rate=2.0), form="video")
    config = PrepareConfig(max_frames=most, frames_per_second=4.0)
    (made,) = encoded(clip, caption="Grey.", max_frames=most, frames_per_second=4.0)
    assert made.codes.tolist() == QUARTERS.encode(read_spread(clip, config=config, resolution=32)).tolist()
    # From the first to the last that is held, at the rate at which they were chosen.
    assert made.frames_per_second == 4.0 or len(made.codes) / made.frames_per_second > 12
    assert made.seconds == 15.5


@given(st.integers(1, 20), st.integers(1, 400), st.integers(1, 40))
def test_thinning_does_not_hang_on_when_frames_are_added(most, frames, together):
    one_by_one, ahead = Thinned[int](most=most), Thinned[int](most=most)
    for index in range(frames):
        if one_by_one.wants(index):
            one_by_one.add([(index, index)])
    wanted = [index for index in range(frames) if ahead.wants(index)]
    for start in range(0, len(wanted), together):
        ahead.add((index, index) for index in wanted[start : start + together])
    assert ahead.chosen() == one_by_one.chosen()
    assert len(ahead.chosen()) == min(frames, most) and ahead.chosen()[0] == (0, 0)
    # As many as are held at first, and half of them again with each doubling of the length.
    assert len(wanted) <= 2 * most + most * (frames // most).bit_length()


def test_windows_of_footage_give_every_frame_once(tmp_path: Path, write_clip):
    clip = MediaFile(path=write_clip(tmp_path / "a.mp4", frames=10), form="video")
    windows = encoded(clip, max_frames=4)
    assert [len(window.codes) for window in windows] == [4, 4, 2]
    assert {window.seconds for window in windows} == {2.5}
    levels = np.concatenate([window.codes for window in windows])
    (whole,) = encoded(clip, max_frames=10)
    assert np.array_equal(levels, whole.codes) and whole.codes[-1, 0] > whole.codes[0, 0]


def test_codes_of_others_are_taken_where_they_are_whole_frames_of_the_codebook():
    made = encoded(CodedClip(codes=tuple(range(8))), max_frames=4)
    assert [window.codes.tolist() for window in made] == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    assert made[0].seconds == 0.5
    for wrong in (tuple(range(7)), (0, 1, 2, 8), (0, 1, 2, -1)):
        with pytest.raises(InputError) as refused:
            encoded(CodedClip(codes=wrong), max_frames=4)
        assert refused.value.field == "vision"


def test_pictures_without_a_frame_tokenizer_are_refused_by_name(tmp_path: Path, write_clip):
    clip = MediaFile(path=write_clip(tmp_path / "a.png"), form="image")
    blind = ClipEncoder(
        config=PrepareConfig(),
        vocabulary=Vocabulary(text_size=100),
        frame_tokenizer=None,
        batches=FrameBatches(None),
    )
    with pytest.raises(InputError) as refused:
        blind.read(Sample(key="a", split="train", clip=clip))
    assert refused.value.path == clip.path


def test_a_stage_takes_every_second_frame_at_half_the_rate():
    half = ClipConfig(frames_per_second=2.0)
    assert shown(8, 4.0, clips=half).tolist() == [0, 2, 4, 6]
    assert shown(8, 4.0, clips=ClipConfig(frames_per_second=3.0)).tolist() == [0, 1, 2, 4, 5, 6]
    assert shown(8, 4.0, clips=ClipConfig()).tolist() == shown(8, 1.0, clips=half).tolist() == list(range(8))


@given(
    st.integers(1, 5000),
    st.sampled_from([0.1, 0.37, 1.0, 4.0, 29.97]),
    st.just(0.0) | st.floats(0.01, 100),
    st.integers(0, 50),
)
def test_as_many_frames_are_shown_as_were_counted(frames, prepared, rate, most):
    clips = ClipConfig(max_frames=most, frames_per_second=rate)
    at_rate = shown(frames, prepared, clips=clips).tolist()
    chosen = evenly(at_rate, most or len(at_rate))
    assert count_shown(np.array([frames]), [prepared], clips=clips).tolist() == [len(chosen)]
    assert chosen == sorted(set(chosen)) and chosen[0] == 0 and chosen[-1] < frames
