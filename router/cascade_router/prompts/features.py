"""Features of a prompt, from its text alone and in well under 100 µs: fitted word tables and a rule for phrases.

Eight of them are the features of the published prompt router (HADIS), which computes them with a full parser and two
lexicons. Here each is estimated from the words alone, as the sum of weights that `cascade fit-hardness --features`
fitted to the parser's counts. The other two are counted by a rule: the number of objects and of small objects, since a
prompt that composes more (small) objects is harder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .words import WordWeights, words_of

_LEXICON: Final = Path(__file__).with_name("lexicon.json")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SMALL_WORDS: Final = _words("small tiny little miniature minuscule petite mini micro")

_ARTICLES: Final = _words("a an the this that these those its his her their our my your some one")
_NO_NOUNS: Final = _ARTICLES | _words(
    "any each every no it he she they we you i of with without and or but to from for as than while who which where "
    "when there is are was were be been being am has have had do does did will would can could may might must not very "
    "so too up down off front back top bottom side middle "
    "above across against along among around at atop behind below beneath beside between beyond by in inside into "
    "left near next on onto opposite out outside over past right through toward towards under underneath upon within "
    "sit sits stand stands lie lies hang hangs hold holds fly flies run runs walk walks ride rides eat eats play plays "
    "swim swims wear wears look looks rest rests grow grows show shows contain contains make makes made"
)
_ATTRIBUTES: Final = SMALL_WORDS | _words(
    "large big huge giant long short tall wide thin thick high low old new young ancient modern round square bright "
    "dark light black white red green blue yellow cyan magenta orange purple pink brown gray grey golden silver "
    "clear empty full open closed wet dry hot cold soft hard rough smooth beautiful single several many few two three "
    "four five wooden metal plastic stone glass colorful colourful different other"
)
_ATTRIBUTE_SUFFIXES: Final = ("ful", "ous", "ish", "ive", "less", "able", "ible", "ical", "ed")


@dataclasses.dataclass(frozen=True, slots=True)
class PromptCounts:
    """The features that are counted by a rule."""

    noun_phrases: int
    small_objects: int
    """Noun phrases with a word for small size."""


@dataclasses.dataclass(frozen=True, slots=True)
class Features(PromptCounts):
    """All features. The published ones are estimates of integer counts, so they can be fractions or negative."""

    prompt_length: float
    """Words."""
    token_rarity: float
    """Rare words."""
    num_objects: float
    """Subjects and objects of verbs and prepositions."""
    abstractness: float
    """Words for things that cannot be touched."""
    attribute_density: float
    """Adjectives and adjectival modifiers."""
    spatial_relations: float
    """Prepositions and adverbs of place."""
    action_verbs: float
    """Verbs other than auxiliaries."""
    named_entities: float
    """Names of persons, organisations and places."""


COUNTED: Final = tuple(field.name for field in dataclasses.fields(PromptCounts))
PUBLISHED: Final = tuple(field.name for field in dataclasses.fields(Features) if field.name not in COUNTED)


def extract(prompt: str) -> Features:
    """Features of a prompt; any text is valid."""
    words = words_of(prompt)
    counts = count(words)
    estimates = {name: table.total(words) for name, table in lexicon().items()}
    return Features(noun_phrases=counts.noun_phrases, small_objects=counts.small_objects, **estimates)


def count(words: Sequence[str]) -> PromptCounts:
    """Noun phrases, and those among them that are small."""
    kinds = [_kind(word) for word in words]
    kinds.append("closed")
    phrases = small_objects = 0
    in_phrase = small = False
    for at, word in enumerate(words):
        kind = kinds[at]
        following = kinds[at + 1]
        if kind == "attribute" and not in_phrase and following not in ("attribute", "noun"):
            kind = "noun"  # "a white square": the last word of a phrase is its noun, whatever else it could be
        if kind == "attribute":
            small = small or word in SMALL_WORDS
        elif kind == "noun":
            if following != "noun":
                phrases += 1
                small_objects += small
                small = False
        elif word in _ARTICLES:
            small = False
        in_phrase = kind == "noun"
    return PromptCounts(phrases, small_objects)


def first_noun(words: Sequence[str]) -> str:
    """The last noun of the first noun phrase, which is what a caption is about; "" if there is none."""
    found = ""
    for word in words:
        kind = _kind(word)
        if kind == "noun":
            found = word
        elif found:
            break
    return found


def _kind(word: str) -> str:
    if word in _ATTRIBUTES:
        return "attribute"
    if word in _NO_NOUNS or (len(word) > 4 and word.endswith("ing")):
        return "closed"
    if len(word) > 5 and word.endswith(_ATTRIBUTE_SUFFIXES):
        return "attribute"
    return "noun"


@functools.cache
def lexicon() -> Mapping[str, WordWeights]:
    """The fitted table of each published feature."""
    return read_tables(json.loads(_LEXICON.read_text(encoding="utf-8")))


def read_tables(content: Any) -> dict[str, WordWeights]:
    """The word tables by column; all numbers of a file are in thousandths.

    Raises KeyError, TypeError or ValueError if ``content`` does not have this form.
    """
    columns: list[str] = [str(name) for name in content["columns"]]

    def column(values: Sequence[int], at: int) -> float:
        if len(values) != len(columns):
            raise ValueError(f"{len(values)} numbers for {len(columns)} columns")
        return float(values[at]) / 1000

    return {
        name: WordWeights(
            intercept=column(content["intercept"], at),
            known={word: column(values, at) for word, values in content["words"].items()},
            suffixes={end: column(values, at) for end, values in content["suffixes"].items()},
            unknown=column(content["unknown"], at),
            unknown_letter=column(content["unknownLetter"], at),
        )
        for at, name in enumerate(columns)
    }
