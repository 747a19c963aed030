from trine.runtime.serving.response_headers import MAX_LISTED, _listed


def test_a_header_lists_numbers_and_stays_short() -> None:
    assert _listed([]) == ""
    assert _listed([0, 3]) == "0,3"
    assert _listed(list(range(MAX_LISTED))).count(",") == MAX_LISTED - 1
    long = _listed(list(range(100_000, 102_048)))
    assert long.endswith(f",{100_000 + MAX_LISTED - 1},+{2048 - MAX_LISTED}")
    assert len(long) < 2000
