"""The vocabulary of a study's captions: words and two-word phrases, and which captions have them.

A word is a run of letters and digits of any script, with at least one letter; apostrophes and hyphens may stand inside
("t-shirt"). Case is folded; markup and web addresses are left out. Chinese and Japanese are written without spaces: there each
character is a word, and two neighbours are a phrase.
"""

import html
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

LEAST = 5  # captions that have a word: with fewer, one half of the pairs often has none of them
MOST = 20_000  # words and phrases, the most frequent ones
ALWAYS = 0.95  # of a word's captions: if so many have one phrase with it, the phrase stands for the word
BOUND = 2 / 3  # of the captions with the rarer word of a phrase: with fewer, the phrase is chance ("wood showing")
UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han characters and kana
NOT_TEXT = re.compile(r"<[^<>]*>|\b\w+://\S+|www\.\S+")
ENDINGS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", ""), ("men", "man"), ("i", "us"))  # plural, singular
CONTENT = frozenset({  # on the list of stop words, but they say what an image shows
    "back", "bill", "bottom", "cry", "eight", "eleven", "empty", "fifteen", "fifty", "fire", "first", "five", "forty",
    "four", "front", "full", "hundred", "mill", "mine", "nine", "one", "side", "six", "sixty", "system", "ten", "thick",
    "thin", "third", "three", "top", "twelve", "twenty", "two",
})  # fmt: skip


class Vocabulary(NamedTuple):
    """Words and two-word phrases, in alphabetical order, and where they are."""

    words: list[str]
    presence: sp.csr_matrix  # (pairs, words) bool: the caption has the word, however often


def caption_words(captions: list[str], least: int = LEAST) -> Vocabulary:
    """Return the words and two-word phrases that at least `least` captions have; at most `MOST`, the most frequent.

    A plural counts as its singular if both occur (`singular`). scikit-learn's ENGLISH_STOP_WORDS are left out, except numbers and
    the few that name a thing (`CONTENT`); phrases are of neighbours with only spaces between them, neither of them on the list.
    Other languages have no stop words: what most captions have goes with no concept, so it does not become a name.

    A phrase counts if at least two thirds of the captions with its rarer word have it (`BOUND`): "palm tree", not "wood
    showing". A word that almost always stands in the same phrase is left out (`ALWAYS`): "palm" and "tree", if there are only
    palm trees.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    texts = list(split_captions(captions))
    forms = {word for runs in texts for run in runs for word in run}
    merged = {form: singular(form, forms) for form in forms}
    texts = [[[merged[word] for word in run] for run in runs] for runs in texts]
    single = [{(word,) for run in runs for word in run if word not in ENGLISH_STOP_WORDS - CONTENT} for runs in texts]
    kept = {word for (word,) in frequent(single, least)} - ENGLISH_STOP_WORDS
    double = [{pair for run in runs for pair in itertools.pairwise(run) if kept.issuperset(pair)} for runs in texts]
    entries = [words | pairs for words, pairs in zip(single, double, strict=True)]
    return as_vocabulary(entries, settle_phrases(frequent(entries, least)))


def settle_phrases(counts: dict[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """Return the words and phrases, except phrases below `BOUND` and words that phrases stand for (`ALWAYS`)."""
    of_words = {entry: [counts.get((word,), 0) for word in entry] for entry in counts if len(entry) == 2}
    phrases = [entry for entry, words in of_words.items() if counts[entry] >= BOUND * min(words)]
    same = {(word,) for entry in phrases for word in entry if counts[entry] >= ALWAYS * counts.get((word,), 0)}
    return [entry for entry in counts if len(entry) == 1 and entry not in same] + phrases


def as_vocabulary(entries: list[set[tuple[str, ...]]], chosen: list[tuple[str, ...]]) -> Vocabulary:
    chosen = sorted(chosen, key=lambda entry: (written(entry), entry))
    position = {entry: number for number, entry in enumerate(chosen)}
    rows = [sorted(position[entry] for entry in row if entry in position) for row in entries]
    indices, indptr = np.array([i for row in rows for i in row], np.int64), np.cumsum([0, *map(len, rows)])
    presence = sp.csr_matrix((np.ones(len(indices), bool), indices, indptr), shape=(len(rows), len(chosen)))
    return Vocabulary([written(entry) for entry in chosen], presence)


def written(entry: tuple[str, ...]) -> str:
    """Return a word or phrase as it is written: with a space, but not between two characters of a script without spaces."""
    unspaced = len(entry) == 2 and all(re.fullmatch(f"[{UNSPACED}]", word) for word in entry)
    return ("" if unspaced else " ").join(entry)


def frequent(entries: list[set[tuple[str, ...]]], least: int) -> dict[tuple[str, ...], int]:
    """Return what at least `least` of the sets have, and how many; of more than `MOST` the most frequent ones."""
    counts = Counter(entry for row in entries for entry in row)
    often = [entry for entry, count in counts.items() if count >= least]
    return {entry: counts[entry] for entry in sorted(often, key=lambda entry: (-counts[entry], entry))[:MOST]}


def split_captions(captions: list[str]) -> Iterator[list[list[str]]]:
    """Yield, per caption, its runs of words: words of one run have only spaces between them."""
    texts = [NOT_TEXT.sub(" , ", html.unescape(text)) for text in captions]
    texts = [unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'") for text in texts]
    marks = {character for character in set().union(*texts) if unicodedata.category(character).startswith("M")}
    letter = rf"(?:[^\W_{UNSPACED}]|[{''.join(sorted(marks))}])" if marks else rf"[^\W_{UNSPACED}]"
    word = re.compile(rf"[{UNSPACED}]|{letter}+(?:['-]{letter}+)*")
    for text in texts:
        runs, end = [], None
        for found in word.finditer(text):
            if not any(map(str.isalpha, found[0])):
                continue
            if end is None or text[end : found.start()].strip(" \t\n"):
                runs.append([])
            runs[-1].append(found[0].removesuffix("'s"))
            end = found.end()
        yield runs


def singular(word: str, forms: set[str]) -> str:
    """Return the English singular of a word if it is among the forms that occur, else the word itself.

    It is formed by the rules of `ENDINGS`, the first one that gives a form; so "news" counts as "new" where both occur. Neither
    -ss, -us and -is nor words of three letters are taken for plurals.
    """
    if len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    candidates = (word.removesuffix(plural) + ending for plural, ending in ENDINGS if word.endswith(plural))
    return next((candidate for candidate in candidates if candidate in forms), word)
