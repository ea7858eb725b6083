import pytest

from ringworld.data.qa.pairs import Rejected, pair_of, prompt

CHUNK = "Anna left Moscow in 1874 with her brother Stiva. The train was late, and the guard saw her weep."


@pytest.mark.parametrize(
    ("reply", "question", "answer"),
    [
        ("Question: Who saw Anna weep?\nAnswer: The guard", "Who saw Anna weep?", "The guard"),
        (
            "\n**Question:** When did Anna leave Moscow?\n\n**Answer:** In 1874.\n",
            "When did Anna leave Moscow?",
            "In 1874.",
        ),
        ("question: Who left?\nanswer: her BROTHER,\nStiva", "Who left?", "her BROTHER,\nStiva"),
    ],
)
def test_a_usable_reply(reply: str, question: str, answer: str):
    asked = pair_of(reply, passage=CHUNK).asked
    assert asked is not None
    assert (asked.question, asked.answer) == (question, answer)


@pytest.mark.parametrize(
    ("reply", "rejected"),
    [
        ("", "not a question and an answer"),
        ("Anna left Moscow.", "not a question and an answer"),
        ("Question: Who saw Anna weep?", "not a question and an answer"),
        ("Question: Who saw Anna weep?\nAnswer:", "not a question and an answer"),
        ("Question: Tell of Anna.\nAnswer: The guard", "not a question and an answer"),
        (f"Question: Who saw Anna?{chr(10) * 3900}The guard", "not a question and an answer"),
        ("Question: Who saw\nAnna?\nAnswer: The guard", "not a question and an answer"),
        ("Sure!\nQuestion: Who saw Anna?\nAnswer: The guard", "not a question and an answer"),
        (
            "Question: Who saw her?\nAnswer: The guard\n\nQuestion: Who left?\nAnswer: Anna",
            "not a question and an answer",
        ),
        (f"Question: {'who, ' * 100}who?\nAnswer: Anna", "not a question and an answer"),
        ("Question: Who weeps in the passage?\nAnswer: Anna", "about a passage"),
        ("Question: What does this text tell of?\nAnswer: The train", "about a passage"),
        ("Question: When did Anna leave?\nAnswer: In 1875", "not answered by its passage"),
        ("Question: Who saw Anna?\nAnswer: A sailor from Odessa", "not answered by its passage"),
        ("Question: Did Anna weep?\nAnswer: Yes", "not answered by its passage"),
        ("Question: Who?\nAnswer: ...", "not answered by its passage"),
    ],
)
def test_what_makes_a_reply_unusable(reply: str, rejected: Rejected):
    assert pair_of(reply, passage=CHUNK).rejected == rejected


def test_a_prompt_ends_with_its_passage():
    assert prompt(CHUNK).endswith(f"\n\n{CHUNK}")
