"""Exact match and F1 of an answer, as open-domain question answering counts them.

    >>> exact_match("The Eiffel Tower!", ["Eiffel tower"])
    True
    >>> f1("Gustave Eiffel", ["Alexandre Gustave Eiffel"])
    0.8

Both compare normalised texts: Unicode's composed form, lower case, without ASCII punctuation,
without the articles a, an and the, single spaces.

Source: the evaluation scripts of SQuAD and HotpotQA; from HotpotQA (and FlashRAG) comes that an
answer yes, no or noanswer has no F1 with anything but itself. Only the answer is scored, never the
text around it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

from ..sanitise import composed

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})


def normalise(text: str) -> str:
    """Bring a text to the form in which answers are compared.

    A text of articles and punctuation alone becomes empty.
    """
    return " ".join(_ARTICLES.sub(" ", composed(text).lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Iterable[str]) -> bool:
    """Tell whether the answer equals one of the gold answers after normalisation."""
    said = normalise(answer)
    return any(said == normalise(gold) for gold in golds)


def f1(answer: str, golds: Iterable[str]) -> float:
    """Compute the best F1 of words over the gold answers, in [0, 1].

    F1 is the harmonic mean of precision and recall.

    Where nothing is left of both texts they are equal: 1, so that an exact match never scores less.
    """
    return max((_f1(normalise(answer), normalise(gold)) for gold in golds), default=0.0)


def _f1(said: str, gold: str) -> float:
    if said == gold:
        return 1.0
    if said in _CLOSED or gold in _CLOSED:
        return 0.0
    ours, theirs = said.split(), gold.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
