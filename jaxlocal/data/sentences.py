"""Short sentences that someone might write about a meal, a film or a journey, made from templates."""

from itertools import product

import numpy as np

from jaxlocal.data.tables import Row, Rows

COUNTS = {"train": 700, "validation": 100, "test": 100}
SUBJECTS = (
    *("the soup", "the film", "the hotel", "the music", "our guide", "the train ride", "the service", "the last song"),
    *("the story", "the room", "my dinner", "the view from the window"),
)
PRAISE = "wonderful", "charming", "excellent", "fresh", "lovely", "delightful", "splendid", "warm"
BLAME = "awful", "boring", "dreadful", "stale", "disappointing", "gloomy", "horrible", "cold"
PLAIN = (
    *("{} was {}", "{} was really {}", "i think {} was {}", "they say that {} is {}", "{} seemed {} to all of us"),
    *("we found {} {}", "{} is always {}"),
)
DENIED = "{} was not {}", "i would not call {} {}"
ENDS = "", " last night", " , as my sister said", " this time", " from the first minute on"


def sentences() -> Rows:
    """900 sentences with the labels negative and positive, the same in every call.

    In some of them "not" turns the meaning round, so that single words do not suffice.
    """
    found = []
    for forms, turned in ((PLAIN, False), (DENIED, True)):
        for form, subject, (word, praises), end in product(forms, SUBJECTS, _words(), ENDS):
            label = "positive" if praises != turned else "negative"
            found.append((form.format(subject, word) + end + " .", label))
    rows = [Row(line, *found[i]) for line, i in enumerate(np.random.default_rng(0).permutation(len(found)), 1)]
    table, begin = {}, 0
    for split, count in COUNTS.items():
        table[split] = rows[begin : begin + count]
        begin += count
    return table


def _words() -> list[tuple[str, bool]]:
    return [*((word, True) for word in PRAISE), *((word, False) for word in BLAME)]
