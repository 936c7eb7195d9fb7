"""WordList: a fixed vocabulary of classes with synonyms, asked in the words that people use."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from feature_gs_ros.core.errors import ExtractorError, UnknownPromptError

_ARTICLES = frozenset({"a", "an", "the", "some", "any", "my", "this", "that"})
_PUNCTUATION = ".,;:!?…\"'()"  # around words, as people write sentences
_IRREGULAR = {
    "knives": "knife", "mice": "mouse", "geese": "goose", "men": "man", "women": "woman", "people": "person",
    "children": "child", "feet": "foot", "teeth": "tooth", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf",
    "oxen": "ox", "dice": "die", "cacti": "cactus", "fungi": "fungus", "lice": "louse", "wolves": "wolf",
}  # fmt: skip
_COLOURS = frozenset(
    ("red", "green", "blue", "yellow", "orange", "purple", "violet", "pink", "brown", "black", "white", "grey", "gray")
    + ("silver", "golden", "beige", "turquoise", "cyan", "magenta", "colourful", "colorful")
)
_NEAREST_COUNT = 5
_ALIKE = 0.5  # least ratio of difflib


class WordList:
    """Classes in order, each with its synonyms; looks up a prompt in spite of case, plural, article, underscores."""

    def __init__(self, synonyms: Sequence[Sequence[str]], owner: str) -> None:
        """``synonyms[c]`` are the words of class c; ``owner`` is the extractor's name for messages."""
        self.synonyms = tuple(tuple(words) for words in synonyms)
        self._owner = owner
        self._classes: dict[str, set[int]] = defaultdict(set)  # whole word -> classes
        self._by_ending: dict[str, set[int]] = defaultdict(set)  # "mug" of "coffee mug" -> classes
        self._originals: dict[str, str] = {}
        for index, words in enumerate(self.synonyms):
            for word in words:
                tokens = _tokens(word)
                self._classes[" ".join(tokens)].add(index)
                self._originals.setdefault(" ".join(tokens), word)
                for start in range(1, len(tokens)):
                    self._by_ending[" ".join(tokens[start:])].add(index)

    @staticmethod
    def from_file(path: Path, owner: str) -> WordList:
        """Lines of comma-separated synonyms in class order; # begins a comment line."""
        return WordList([_listed(line) for line in _lines(path)], owner)

    def add_everyday_words(self, path: Path) -> None:
        """Lines of ``word, word: known word, known word``: the former stand for the latter's classes from now on.

        Raises:
            ExtractorError: the file can't be read.
            UnknownPromptError: a word to stand for is none of the list's.
        """
        for line in _lines(path):
            said, _, meant = line.partition(":")
            classes = {index for word in _listed(meant) for index in self.classes(word)}
            for word in _listed(said):
                self._classes[" ".join(_tokens(word))] = classes
                self._originals.setdefault(" ".join(_tokens(word)), word)

    def __len__(self) -> int:
        return len(self.synonyms)

    def known(self) -> tuple[str, ...]:
        """All words as they are spelled in the list, in alphabetical order."""
        return tuple(sorted(self._originals.values(), key=str.lower))

    def classes(self, prompt: str) -> tuple[int, ...]:
        """The classes that a prompt names, ascending.

        A whole synonym counts first ("cup" is the cup, not the measuring cup); else the prompt may be the end of
        synonyms ("mug" is the coffee mug, "bottle" any bottle). A word of several classes ("crane") names them all.

        Raises:
            UnknownPromptError: it names none.
        """
        forms = _forms(_tokens(prompt))
        for table in (self._classes, self._by_ending):
            for form in forms:
                if form in table:
                    return tuple(sorted(table[form]))
        nearest = self.nearest(prompt)
        hint = f"; the nearest known are {', '.join(nearest)}" if nearest else ""
        colour = next((token for token in _tokens(prompt)[:-1] if token in _COLOURS), None)
        colours = "" if colour is None else f"; it knows objects, not their colours: ask without '{colour}'"
        raise UnknownPromptError(
            f"'{prompt}' is none of the {len(self)} words of the extractor '{self._owner}'{colours}{hint}", nearest
        )

    def nearest(self, prompt: str) -> tuple[str, ...]:
        """Known words with the prompt's last word, then with another of its words, then of like spelling; five."""
        forms = _forms(_tokens(prompt))
        if not forms:
            return ()
        nouns = {form.split()[-1] for form in forms}
        asked = {token for form in forms for token in form.split()}
        sharing = sorted(
            (word for word in self._classes if asked & set(word.split())),
            key=lambda word: (word.split()[-1] not in nouns, len(word), word),
        )
        alike = difflib.get_close_matches(forms[0], list(self._classes), n=_NEAREST_COUNT, cutoff=_ALIKE)
        keys = list(dict.fromkeys([*sharing, *alike]))[:_NEAREST_COUNT]
        return tuple(self._originals[key] for key in keys)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExtractorError(f"can't read the words '{path}': {error}", code="extractor.unreadable") from error
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


def _tokens(text: str) -> list[str]:
    """Lower-case words without leading articles; "_" and "-" part words."""
    plain = text.lower().strip(_PUNCTUATION).replace("_", " ").replace("-", " ").replace("'s ", " ")
    words = [word for part in plain.split() if (word := part.strip(_PUNCTUATION))]
    while len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return words


def _forms(tokens: Sequence[str]) -> list[str]:
    """The prompt as it stands, then with its last word in the singular, then in the plural."""
    if not tokens:
        return []
    *head, last = tokens
    return [" ".join([*head, form]) for form in (last, *_singulars(last), *_plurals(last))]


def _singulars(word: str) -> list[str]:
    singulars = [_IRREGULAR[word]] if word in _IRREGULAR else []
    for ending, replacements in (("ves", ("f", "fe")), ("ies", ("y",)), ("es", ("",)), ("s", ("",))):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            singulars += [word[: -len(ending)] + replacement for replacement in replacements]
    return singulars


def _plurals(word: str) -> list[str]:
    return [f"{word}s", f"{word}es"]
