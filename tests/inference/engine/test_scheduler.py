"""Rounds of an engine without a device: pages of two tokens, four of which are read in a round."""

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.clip_grammar import ClipGrammar
from ringworld.inference.config import GREEDY
from ringworld.inference.engine.pages import Pages
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.engine.sequence import Clips, GenerationRequest, LiveSequence, Piece, ScoredToken
from ringworld.text.vocabulary import Vocabulary

END = 99


def asked(*prompt: int, new: int = 3, **changes) -> LiveSequence:
    request = GenerationRequest(prompt=np.array(prompt, np.int32), max_new_tokens=new, **changes)
    return LiveSequence(
        request,
        ends=frozenset([END]),
        decode=lambda ids: "".join(chr(64 + id) for id in ids),
        deliver=lambda piece: None,
    )


def scheduler(*sequences: LiveSequence, pages: int = 40, rows: int = 4) -> Scheduler:
    made = Scheduler(Pages(pages), page_tokens=2, chunk_tokens=4, max_sequences=rows)
    made.waiting.extend(sequences)
    return made


def go_round(made: Scheduler, token: int = 1) -> tuple[list[tuple[int, int, int]], list[Piece]]:
    """Return the chunks that were read, by their last token of the prompt, and what came of a step."""
    made.admit()
    chunks = []
    for chunk in made.chunks():
        chunks.append((chunk.sequence.request.prompt[-1], chunk.start, chunk.tokens))
        made.was_read(chunk)
    pieces, ready = [], made.steppable()
    for sequence in ready:
        assert len(sequence.pages) * 2 >= len(sequence.ids)
        made.was_stepped(sequence)
    for sequence in (each for each in ready if each.leads):
        pieces.append(sequence.write(ScoredToken(id=token, logprob=0.0)))
        if pieces[-1].finish:
            made.remove(sequence)
    return chunks, pieces


def test_a_long_prompt_is_read_in_parts_while_others_write():
    long, short = asked(*[5] * 9, 10), asked(7, 7, 20, new=9)
    made = scheduler(short)
    assert go_round(made)[0] == [(20, 0, 2)]
    made.waiting.append(long)
    for expected in ([(10, 0, 4)], [(10, 4, 4)], [(10, 8, 1)]):
        chunks, pieces = go_round(made)
        assert chunks == expected
        assert len(pieces) == (2 if expected[0][1] == 8 else 1)
    assert long.written == 1


def test_prompts_take_turns_and_the_last_that_was_served_is_last():
    made = scheduler(asked(*[5] * 12, 10), asked(*[6] * 12, 20))
    served = [go_round(made)[0][0][0] for _ in range(4)]
    assert served == [10, 20, 10, 20]
    made.waiting.append(asked(1, 2, 30))
    assert [go_round(made)[0][0][0] for _ in range(3)] == [10, 20, 30]


def test_samples_of_one_prompt_read_its_whole_pages_once():
    samples = [asked(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, new=9, sample=i) for i in range(3)]
    made = scheduler(*samples)
    read = [chunk for _ in range(4) for chunk in go_round(made)[0]]
    # The ninth token stands in a page that is not full, and the tenth is read by the step.
    assert sorted(read) == [(10, 0, 4), (10, 4, 4), (10, 8, 1), (10, 8, 1), (10, 8, 1)]
    assert all(each.written and each.pages[:4] == samples[0].pages[:4] for each in samples)
    assert len({each.pages[4] for each in samples}) == 3


def test_a_prefix_that_is_known_is_not_read_again():
    first = asked(1, 2, 3, 4, 5, new=1)
    made = scheduler(first)
    chunks, _ = go_round(made)
    assert chunks == [(5, 0, 4)]
    for prompt, reused, read in (
        ((1, 2, 3, 4, 5, 6), 4, [(6, 4, 1)]),
        ((1, 2, 9, 4, 7), 2, [(7, 2, 2)]),
        # The last token is read by the step, which writes into a page of its own.
        ((1, 2, 3, 4), 2, [(4, 2, 1)]),
        ((1,), 0, []),
    ):
        sequence = asked(*prompt, new=2)
        made.waiting.append(sequence)
        chunks, (piece,) = go_round(made)
        assert chunks == read
        assert piece.reused_tokens == reused
        made.remove(sequence)


def test_what_another_reads_meanwhile_is_not_read_twice():
    made = scheduler(*(asked(*[5] * 8, 10, sample=i) for i in range(3)))
    read = [chunk for _ in range(4) for chunk in go_round(made)[0]]
    assert sum(tokens for _, _, tokens in read) == 8


def test_an_answer_is_known_to_the_next_turn():
    sequence = asked(1, 2, new=4)
    made = scheduler(sequence)
    for token in (3, 4, 5, 6):
        go_round(made, token)
    made.waiting.append(asked(1, 2, 3, 4, 5, 6, 7))
    assert go_round(made)[0] == [(7, 4, 2)]


def test_prompts_to_be_scored_are_read_whole():
    made = scheduler(asked(1, 2, 3, 4, 5, new=1))
    go_round(made)
    made.waiting.append(asked(1, 2, 3, 4, 5, new=0, score_prompt=True))
    chunks = [chunk for _ in range(2) for chunk in go_round(made)[0]]
    assert chunks == [(5, 0, 2), (5, 2, 2)]


def test_the_last_that_was_admitted_gives_up_its_pages_and_all_come_to_an_end():
    # Five pages; each sequence needs four in the end.
    sequences = [asked(10 + i, 20 + i, 30 + i, new=5) for i in range(3)]
    made = scheduler(*sequences, pages=6)
    finished = 0
    for _ in range(40):
        finished += sum(piece.finish == "length" for piece in go_round(made)[1])
        assert made.pages.held + made.pages.available == 5
    assert finished == 3
    assert made.preempted > 0
    assert [sequence.written for sequence in sequences] == [5, 5, 5]
    assert not made.running and not made.waiting and made.pages.held == 0


def test_a_sequence_that_is_removed_holds_nothing_wherever_it_was():
    running, waiting = asked(1, 2, 3), asked(4, 5, 6)
    made = scheduler(running, waiting, rows=1)
    go_round(made)
    made.remove(waiting)
    made.remove(running)
    made.remove(running)
    assert not made.running and not made.waiting and made.pages.held == 0
    made.waiting.append(asked(7, 8, 9))
    assert len(go_round(made)[1]) == 1


@pytest.mark.parametrize(
    ("tokens", "stop", "text", "finish", "last"),
    [
        ([1, 2, 3], (), "ABC", "length", True),
        ([1, END], (), "A", "stop", False),
        ([1, 2, 3], ("BC",), "A", "stop", True),
        ([1, 2, 3], ("CD",), "ABC", "length", True),
    ],
)
def test_text_ends_at_an_end_a_stop_string_or_the_most_tokens(tokens, stop, text, finish, last):
    sequence = asked(5, stop=stop)
    pieces = [sequence.write(ScoredToken(id=id, logprob=-1.0)) for id in tokens]
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.finish for piece in pieces] == [None] * (len(tokens) - 1) + [finish]
    assert (pieces[-1].token is not None) == last


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1, "alternatives": 21}, "alternatives"),
        ({"max_new_tokens": 1, "stop": ("",)}, "stop"),
        ({"max_new_tokens": 1, "sample": -1}, "sample"),
    ],
)
def test_a_request_that_asks_nothing_possible_is_refused(changes, field):
    with pytest.raises(InputError) as refused:
        GenerationRequest(prompt=np.ones(1, np.int32), **changes)
    assert refused.value.field == field


def test_what_is_guided_is_admitted_written_and_removed_as_two():
    guided = asked(1, 2, 3, 4, 5, new=9, unconditional=np.array([7], np.int32))
    made = scheduler(asked(9, 9, 30, new=9), guided, rows=2)
    go_round(made)
    assert len(made.running) == 1 and list(made.waiting) == [guided]
    made.remove(made.running[0])
    made.admit()
    assert made.running == [*guided.pair]
    # The other is read at once, and waits for the one that leads.
    assert made.steppable() == []
    for chunk in made.chunks():
        made.was_read(chunk)
    assert made.steppable() == [*guided.pair]
    for each in guided.pair:
        made.was_stepped(each)
    guided.write(ScoredToken(id=6, logprob=0.0))
    assert [each.ids[-1] for each in guided.pair] == [6, 6]
    made.remove(guided)
    assert not made.running and not made.waiting and made.pages.held == 0


def test_each_clip_of_a_text_is_compared_with_the_same_prompt_and_the_text_with_none():
    vocabulary = Vocabulary(text_size=100, codes=6, codes_per_frame=2)
    code, eov = vocabulary.code_offset, vocabulary.eov
    grammar = ClipGrammar(vocabulary=vocabulary, begin=(8,), close=(9,), most_frames=1)
    guided = asked(
        1,
        2,
        3,
        new=20,
        unconditional=np.array([7, 8], np.int32),
        clips=Clips(grammar=grammar, sampling=GREEDY),
    )
    text, compared = guided.pair
    made = scheduler(guided)
    for token, beside in (
        (4, [7, 8]),
        (8, [7, 8]),
        (code, [7, 8, code]),
        (code + 1, [7, 8, code, code + 1]),
        (eov, [7, 8, code, code + 1, eov]),
        (9, [7, 8]),
        (4, [7, 8]),
        (8, [7, 8]),
        (code + 5, [7, 8, code + 5]),
    ):
        go_round(made, token)
        assert (text.ids[-1], compared.ids) == (token, beside)
    # Of both what is read is all but the last.
    assert (text.unread, compared.unread) == (0, 0)
    assert made.pages.held == len(text.pages) + len(compared.pages)
    made.remove(guided)
    assert made.pages.held == 0
