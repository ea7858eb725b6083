"""The wording of LWM's needle tests (`scripts/eval_needle.py`, `eval_needle_multi.py`), and their cities.

LWM's own list has 100 entries of which 69 differ, so that two needles of one haystack can contradict each
other. Here each city stands once.
"""

import re
from collections.abc import Mapping, Sequence

CITIES = tuple(
    city.strip()
    for city in """
    Abidjan, Accra, Adelaide, Amsterdam, Ankara, Antananarivo, Antwerp, Asmara, Athens, Auckland, Baku,
    Baltimore, Bangkok, Barcelona, Basel, Beirut, Belgrade, Bergen, Berlin, Bilbao, Bogota, Bologna,
    Bordeaux, Boston, Bratislava, Brisbane, Brussels, Bucharest, Budapest, Buffalo, Cairo, Calgary,
    Canberra, Caracas, Cardiff, Casablanca, Chicago, Cologne, Copenhagen, Cork, Cusco, Dakar, Dallas,
    Damascus, Darwin, Delhi, Denver, Detroit, Dhaka, Doha, Dresden, Dubai, Dublin, Durban, Edinburgh, Fez,
    Florence, Freetown, Fukuoka, Gaborone, Geneva, Genoa, Ghent, Glasgow, Granada, Guadalajara, Halifax,
    Hamburg, Hanoi, Harare, Havana, Helsinki, Hobart, Honolulu, Houston, Istanbul, Izmir, Jakarta,
    Jerusalem, Kampala, Karachi, Kathmandu, Kigali, Kingston, Krakow, Kyoto, Lagos, Lahore, Leeds,
    Leipzig, Lima, Lisbon, Liverpool, Ljubljana, London, Luanda, Lusaka, Lyon, Madrid, Malmo, Managua,
    Manchester, Manila, Maputo, Marrakesh, Marseille, Medellin, Melbourne, Memphis, Miami, Milan, Minsk,
    Mombasa, Montevideo, Montreal, Mumbai, Munich, Muscat, Nairobi, Nantes, Naples, Nashville, Nicosia,
    Oaxaca, Odessa, Osaka, Oslo, Ottawa, Oxford, Palermo, Paris, Perth, Philadelphia, Phoenix, Pisa,
    Portland, Porto, Prague, Quebec, Quito, Rabat, Riga, Rome, Rotterdam, Salzburg, Samarkand, Santiago,
    Sapporo, Sarajevo, Seattle, Seoul, Seville, Shanghai, Singapore, Skopje, Sofia, Stockholm, Strasbourg,
    Stuttgart, Sydney, Tallinn, Tbilisi, Tehran, Tirana, Tokyo, Toronto, Trieste, Tripoli, Tunis, Turin,
    Utrecht, Valencia, Vancouver, Venice, Verona, Vienna, Vilnius, Warsaw, Wellington, Windhoek, Winnipeg,
    Yerevan, Zagreb, Zanzibar, Zurich
    """.split(",")
)


_NEEDLE = re.compile(r"\n?The special magic [^\n]{1,60} number is: \d+\n?")


def needle(city: str, number: str) -> str:
    """Return the line to be found again, between two line ends."""
    return f"\nThe special magic {city} number is: {number}\n"


def without_needles(text: str) -> str:
    """Take every needle out, so that a text can serve as a haystack."""
    return _NEEDLE.sub("\n", text)


def question(cities: Sequence[str]) -> str:
    """Ask for the numbers of these cities.

    `question(["Oslo", "Rome", "Lima"])` is "What are the special magic numbers for Oslo, Rome, and Lima?".
    """
    if len(cities) == 1:
        return f"What is the special magic {cities[0]} number?"
    listed = " and ".join(cities) if len(cities) == 2 else f"{', '.join(cities[:-1])}, and {cities[-1]}"
    return f"What are the special magic numbers for {listed}?"


def answer(numbers: Mapping[str, str]) -> str:
    """Return the answer that toy documents teach: the needles asked for, by city, without their line ends."""
    return " ".join(needle(city, number).strip() + "." for city, number in numbers.items())
