"""When two names of emoji mean one drawing but for skin tone and gender.

"woman cook dark skin tone" and "cook" do; "red hair" and "man red hair" do not, since one is hair alone.
"""

from __future__ import annotations

import re

_TONE = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
_PHRASES = ((re.compile(r"\b(?:santa|mrs\.|mx) claus\b"), "claus"), (re.compile(r"\bold (?:man|woman)\b"), "older person"))
_WORDS = {"man": "person", "woman": "person", "men": "people", "women": "people", "boy": "child", "girl": "child", "princess": "prince",
          "mermaid": "merperson", "merman": "merperson"}


def plain(name: str) -> str:
    """The name without skin tones, with neutral words for people; the name itself where nothing else is left, as in "dark skin tone"."""
    text = _TONE.sub("", name.lower())
    for pattern, neutral in _PHRASES:
        text = pattern.sub(neutral, text)
    text = " ".join(_WORDS.get(word, word) for word in text.split()).replace("person and person", "people")
    text = re.sub(r"^(couple with heart|kiss) person person$", r"\1", text)
    text = re.sub(r"^person (?=.)(?!.*\b(?:hair|bald)$)", "", text)                     # hair alone is another emoji than a person with it
    return text or name.lower()


def same(a: str, b: str) -> bool:
    """Whether two names differ by skin tone and gender only."""
    return plain(a) == plain(b)
