from ringworld.data.qa.joining import AskedPassage, JoinedConversation, conversations
from ringworld.data.qa.passages import Passage
from ringworld.data.samples import Question
from ringworld.text import chat


def count_tokens(segments: chat.Segments) -> int:
    return sum(len(segment.text.split()) for segment in segments)


def asked(number: int, *, question: str | None = "", answer: str | None = None) -> AskedPassage:
    text = f"Passage {number}. " + "word " * 48
    if question is None:
        return AskedPassage(passage=Passage(text=text, tokens=50), asked=None)
    of = Question(question=question or f"What is {number}?", answer=answer or f"Passage {number}")
    return AskedPassage(passage=Passage(text=text, tokens=50), asked=of)


def join(*passages: AskedPassage, context_tokens: int = 1000) -> list[JoinedConversation]:
    return [*conversations(passages, context_tokens=context_tokens, seed="book", count_tokens=count_tokens)]


def test_all_questions_follow_the_text_of_all_passages_in_another_order():
    passages = [asked(number) for number in range(8)]
    (made,) = join(*passages)
    first, *_ = made.turns
    assert first[0] == "user" and first[1].startswith("".join(one.passage.text for one in passages).strip())
    questions = [text.removeprefix(first[1][: first[1].rindex("word ") + 5]) for _, text in made.turns[::2]]
    answers = [text for _, text in made.turns[1::2]]
    assert sorted(answers) == [f"Passage {number}" for number in range(8)] != answers
    assert all(f"What is {answer.split()[1]}?" in question for question, answer in zip(questions, answers))
    assert (
        made.tokens == count_tokens(chat.conversation([(role, (text,)) for role, text in made.turns]))
        and made.questions == 8
    )
    assert made.to_json()["messages"][1] == {"role": "assistant", "content": answers[0]}


def test_passages_are_divided_where_a_context_is_full():
    passages = [asked(number) for number in range(8)]
    made = join(*passages, context_tokens=220)
    assert all(100 < one.tokens <= 220 for one in made)
    assert [one.questions for one in made] == [3, 3, 2]
    assert made == join(*passages, context_tokens=220)


def test_passages_without_a_question_are_read_all_the_same():
    (made,) = join(asked(0, question=None), asked(1), asked(2, question=None))
    assert made.questions == 1 and "Passage 0." in made.turns[0][1] and "Passage 2." in made.turns[0][1]
    assert join(asked(0, question=None)) == []


def test_a_question_with_two_answers_is_left_out():
    (made,) = join(asked(0, question="Who?"), asked(1, question="who"), asked(2), asked(3))
    assert sorted(text for _, text in made.turns[1::2]) == ["Passage 2", "Passage 3"]
    (once,) = join(asked(0, question="Who?", answer="Anna"), asked(1, question="Who?", answer="anna."))
    assert once.questions == 1


def test_a_passage_that_is_longer_than_a_context_is_left_out():
    long = AskedPassage(passage=Passage(text="word " * 400, tokens=400), asked=asked(0).asked)
    assert [one.questions for one in join(asked(1), long, asked(2), context_tokens=200)] == [1, 1]
