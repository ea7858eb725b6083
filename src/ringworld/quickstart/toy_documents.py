"""Documents of simple sentences in which facts are hidden, with questions that ask for them."""

import math
from random import Random

from ringworld.data.samples import Question
from ringworld.data.sidecars import Sidecar
from ringworld.quickstart.config import ToyWorldConfig
from ringworld.text import needles

_WHO = ("old man", "young woman", "tall boy", "small girl", "baker", "farmer", "teacher", "sailor")
_HOW = ("slowly", "quietly", "often", "gladly", "again", "alone")
_DOES = ("walks to", "looks at", "comes from", "thinks of", "talks about", "waits near")
_WHAT = ("river", "house", "garden", "market", "bridge", "field", "tower", "road", "school", "lake")
_WHEN = ("In the morning", "At noon", "In the evening", "On a cold day", "After the rain", "Every week")
WORDS = tuple(
    sorted({word for some in (_WHO, _HOW, _DOES, _WHAT) for phrase in some for word in phrase.split()})
)
"""What `filler` is made of."""
_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas", "Karl", "Lena")
_JOBS = ("pilot", "doctor", "painter", "lawyer", "singer", "tailor", "gardener", "writer")
_BOXES = ("iron", "wooden", "paper", "glass", "silver", "copper", "leather", "stone")
_THINGS = ("apples", "coins", "books", "keys", "shells", "stamps", "ropes", "candles")


def write_document(random: Random, config: ToyWorldConfig) -> tuple[str, Sidecar]:
    """Write filler of a length drawn evenly over its logarithm, with facts at random depths, and questions.

    One question asks for each fact, and one for several needles at once where there are several.
    """
    longest = math.log(config.longest_words / config.shortest_words)
    words = round(config.shortest_words * math.exp(random.uniform(0, longest)))
    cities = {
        city: str(random.randrange(10**6, 10**7))
        for city in _some(random, needles.CITIES, 1, config.most_facts)
    }
    hidden = [needles.needle(city, number) for city, number in cities.items()]
    asked = [needle_question([city], cities) for city in cities]
    for name in _some(random, _NAMES, 0, config.most_facts // 2):
        hidden.append(f"{name} is a {random.choice(_JOBS)}.")
        asked.append(Question(question=f"What is the work of {name}?", answer=hidden[-1]))
    for box in _some(random, _BOXES, 0, config.most_facts // 2):
        hidden.append(f"The {box} box holds {random.randint(2, 99)} {random.choice(_THINGS)}.")
        asked.append(Question(question=f"What does the {box} box hold?", answer=hidden[-1]))
    sentences = filler(random, words)
    for sentence in hidden:
        sentences.insert(random.randint(0, len(sentences)), sentence)
    if len(cities) > 1:
        asked.append(needle_question(random.sample(list(cities), 2), cities))
    return as_text(sentences), Sidecar(questions=tuple(asked))


def as_text(sentences: list[str]) -> str:
    """Join sentences; a needle brings its own line ends, so that it takes no space before or after."""
    return " ".join(sentences).replace(" \n", "\n").replace("\n ", "\n").strip()


def filler(random: Random, words: int) -> list[str]:
    """Return simple sentences of about so many words in all."""
    sentences, count = [], 0
    while count < words:
        sentence = _sentence(random)
        sentences.append(sentence)
        count += sentence.count(" ") + 1
    return sentences


def _sentence(random: Random) -> str:
    action = (
        f"the {random.choice(_WHO)} {random.choice(_HOW)} {random.choice(_DOES)} the {random.choice(_WHAT)}"
    )
    if random.random() < 0.5:
        return f"{random.choice(_WHEN)} {action}."
    return f"T{action[1:]}."


def _some(random: Random, names: tuple[str, ...], fewest: int, most: int) -> list[str]:
    return random.sample(names, random.randint(fewest, most))


def needle_question(cities: list[str], numbers: dict[str, str]) -> Question:
    """Return what asks for the numbers of some cities, with the answer."""
    return Question(
        question=needles.question(cities),
        answer=needles.answer({city: numbers[city] for city in cities}),
        answers="one" if len(cities) == 1 else "several",
    )
