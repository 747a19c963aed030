"""How few groups are widened: guesses, then halves."""

from hypothesis import given
from hypothesis import strategies as st

from trine.export.quantisation.prefix_search import GUESSES, HALVINGS, fewest_that_pass


@given(st.integers(1, 200), st.integers(1, 201), st.lists(st.integers(0, 200), min_size=GUESSES))
def test_what_is_found_passes_and_little_less_does(
    num_groups: int, needed: int, guesses: list[int]
) -> None:
    tried: dict[int, bool] = {}

    def passes(count: int) -> bool:
        assert 1 <= count <= num_groups
        assert count not in tried
        tried[count] = count >= needed
        return tried[count]

    left = iter(sorted(guesses))
    found = fewest_that_pass(num_groups, lambda _: next(left), passes)
    if needed > num_groups:
        assert found is None
        assert tried[num_groups] is False
        return
    assert found is not None
    assert tried[found]
    missed = max((count for count, passed in tried.items() if not passed), default=0)
    first = max(count for count, passed in tried.items() if passed)
    before = max((c for c in tried if c < needed and c < first), default=0)
    assert before <= missed < needed <= found
    assert len(tried) <= GUESSES + 1 + HALVINGS
    assert found - missed <= max(num_groups // 2**HALVINGS + 1, 1)


def test_each_guess_is_for_a_smaller_share_of_the_losses() -> None:
    shares: list[float] = []

    def guess(share: float) -> int:
        shares.append(share)
        return len(shares)

    assert fewest_that_pass(20, guess, lambda count: count == 20) == 20
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == GUESSES
