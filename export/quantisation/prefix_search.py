"""Binary search for the smallest prefix of groups that need a precision override.

Losses add up only roughly, so a guess by their sum may miss. Where it does, more is guessed; once
some count passes, counts between it and the largest that missed are tried.
"""

from collections.abc import Callable

__all__ = ["fewest_that_pass"]

#: By how much the sum of losses must come down for the next guess.
TIGHTER = 0.25
#: Guesses before every group is overridden.
GUESSES = 4
#: Halvings between a count that missed and one that passed.
HALVINGS = 4


def fewest_that_pass(
    num_groups: int, guess: Callable[[float], int], passes: Callable[[int], bool]
) -> int | None:
    """Return the smallest count that was found to pass, or None if not even all groups do.

    Args:
        num_groups: that can be overridden, at least one; none of them is known to miss.
        guess: returns the count by the sum of losses, for a share of what they may come to.
        passes: tries a count from 1 to `num_groups`. A count that passes was tried; it is taken
            for granted that more would pass too.
    """
    missed = 0
    for number in range(GUESSES + 1):
        wanted = guess(TIGHTER**number) if number < GUESSES else num_groups
        passed = min(max(wanted, missed + 1), num_groups)
        if passes(passed):
            break
        missed = passed
        if missed == num_groups:
            return None
    for _ in range(HALVINGS):
        if passed - missed < 2:
            break
        middle = (missed + passed) // 2
        if passes(middle):
            passed = middle
        else:
            missed = middle
    return passed
