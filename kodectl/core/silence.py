"""When silence is an answer.

A request that gets no answer was lost, or what was asked for does not happen. To tell the two apart, requests that are sure
to be answered go the same way at the same time: they measure the loss. Silence means something when so long a silence
would be too rare a chance at the loss that they showed.
"""

from __future__ import annotations

from typing import NamedTuple

CHANCE_LIMIT = 1e-6
"""Of taking loss for an answer. Twenty conclusions a day, and one of them is wrong in a hundred years."""

PRIOR_ANSWERED = 1.0
PRIOR_LOST = 2.0
"""What is thought of a way before anything is known of it: as if one of three requests had been answered."""

SENDINGS = 14
"""To somebody of whom nothing is known: where 20 % are lost each way, all of them are with a chance of 6e-7."""


class Tally(NamedTuple):
    """Requests that were sure to be answered: how many were, and of how many the answer is overdue."""

    answered: int
    lost: int


NOTHING_MEASURED = Tally(0, 0)


def chance_of_silence(control: Tally, silent: int) -> float:
    """That `silent` requests in a row are lost where the controls fared like this: the rate of loss is not known, only
    what the controls tell of it (the predictive distribution of a beta prior)."""
    answered, lost = control.answered + PRIOR_ANSWERED, control.lost + PRIOR_LOST
    chance = 1.0
    for number in range(silent):
        chance *= (lost + number) / (answered + lost + number)
    return chance


def is_significant(control: Tally, silent: int) -> bool:
    return chance_of_silence(control, silent) <= CHANCE_LIMIT
