"""Features of a prompt from its text alone, in well under 100 µs: closed word lists and suffixes, no language model.

The first eight are those of the published prompt router (HADIS), there computed with a full parser; here each
is an approximation by rule. The last one is for compositional prompts: small objects are what light models lose.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

MAX_WORDS: Final = 128
"""Words looked at; text encoders see fewer, and it bounds the time that a huge prompt takes."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SMALL_WORDS: Final = _words("small tiny little miniature minuscule petite mini micro")

_SPATIAL: Final = _words(
    "above across against along among around at atop behind below beneath beside between beyond by in inside into "
    "left near next on onto opposite out outside over past right through toward towards under underneath upon "
    "within"
)
_CLOSED: Final = _words(
    "a an the this that these those some any each every no its his her their our my your it he she they we you i one "
    "of with without and or but to from for as than while who which where when there is are was were be been being am "
    "has have had do does did will would can could may might must not very so too up down off "
    "front back top bottom side middle"
)
_ARTICLES: Final = _words("a an the this that these those its his her their our my your some one")
_ATTRIBUTES: Final = SMALL_WORDS | _words(
    "large big huge giant long short tall wide thin thick high low old new young ancient modern round square bright "
    "dark light black white red green blue yellow cyan magenta orange purple pink brown gray grey golden silver "
    "clear empty full open closed wet dry hot cold soft hard rough smooth beautiful single several many few two three "
    "four five wooden metal plastic stone glass colorful colourful different other"
)
_ATTRIBUTE_SUFFIXES: Final = ("ful", "ous", "ish", "ive", "less", "able", "ible", "ical", "ed")
_ABSTRACT_SUFFIXES: Final = ("ness", "ity", "tion", "sion", "ism", "ence", "ance", "ship")
_VERBS: Final = _words(
    "sit sits stand stands lie lies hang hangs hold holds fly flies run runs walk walks ride rides eat eats play plays "
    "swim swims wear wears look looks rest rests grow grows show shows contain contains make makes made"
)
_KINDS: Final[dict[str, str]] = (
    dict.fromkeys(_ATTRIBUTES, "attribute")
    | dict.fromkeys(_VERBS, "verb")
    | dict.fromkeys(_SPATIAL, "place")
    | dict.fromkeys(_CLOSED, "closed")
)
_RARE_LENGTH: Final = 8
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """Counts per prompt."""

    prompt_length: int
    """Words."""
    token_rarity: int
    """Words that are probably rare: long ones."""
    num_objects: int
    """Noun phrases."""
    abstractness: int
    """Words that name nothing that can be seen."""
    attribute_density: int
    """Adjectives and participles."""
    spatial_relations: int
    """Prepositions and adverbs of place."""
    action_verbs: int
    """Verbs of action."""
    named_entities: int
    """Capitalised words inside a sentence."""
    small_objects: int
    """Noun phrases with a word for small size."""


def extract(prompt: str) -> Features:
    """Features of a prompt; any text is valid, an empty one has all counts 0."""
    words = _WORD.findall(prompt[: MAX_WORDS * 16])[:MAX_WORDS]
    lowered = [word.lower() for word in words]
    kinds = [_kind(word) for word in lowered]
    kinds.append("closed")
    rare = objects = abstract = attributes = entities = small_objects = 0
    in_phrase = small = False
    for at, word in enumerate(lowered):
        kind = kinds[at]
        following = kinds[at + 1]
        if kind == "attribute" and not in_phrase and following not in ("attribute", "noun"):
            kind = "noun"  # "a white square": the last word of a phrase is its noun, whatever else it could be
        if kind == "attribute":
            attributes += 1
            small = small or word in SMALL_WORDS
        elif kind == "noun":
            if following != "noun":
                objects += 1
                small_objects += small
                small = False
        elif word in _ARTICLES:
            small = False
        in_phrase = kind == "noun"
        abstract += kind == "closed" or word.endswith(_ABSTRACT_SUFFIXES)
        rare += len(word) >= _RARE_LENGTH
        entities += at > 0 and words[at][0].isupper()
    return Features(
        prompt_length=len(words),
        token_rarity=rare,
        num_objects=objects,
        abstractness=abstract,
        attribute_density=attributes,
        spatial_relations=kinds.count("place"),
        action_verbs=kinds.count("verb"),
        named_entities=entities,
        small_objects=small_objects,
    )


def _kind(word: str) -> str:
    known = _KINDS.get(word)
    if known is not None:
        return known
    if len(word) > 4 and word.endswith("ing"):
        return "verb"
    if len(word) > 5 and word.endswith(_ATTRIBUTE_SUFFIXES):
        return "attribute"
    return "noun"
