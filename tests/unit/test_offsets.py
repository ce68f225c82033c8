from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketio_eventlog.errors import OffsetMalformed, OffsetRefused, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.offsets import Epochs, parse
from socketio_eventlog.records import Offset

BOOT_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)
HISTORIES = st.lists(st.integers(0, 5), min_size=1, max_size=8)
"""How many events each boot of the server wrote."""


@given(BOOT_IDS, st.integers(0, 2**53 - 1))
def test_the_text_of_a_place_reads_back_as_the_place(boot: str, number: int) -> None:
    place = Offset(boot, number)
    assert parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "boot",
        "boot.",
        ".5",
        "5",
        "boot.5.5",
        "bo.ot.5",
        "boot.+5",
        "boot.-5",
        "boot.05",
        "boot.5 ",
        " boot.5",
        "boot.5\n",
        "boot.1_000",
        "boot.1e3",
        "boot.5.0",
        "boot.٥",  # an Arabic digit, which int() would take
        "böot.5",
        f"{'b' * 33}.5",
        f"boot.{2**53}",
        "boot.99999999999999999999",
        "1526919030474-55",  # as Redis streams write them
    ],
)
def test_what_this_server_never_writes_is_malformed(text: str) -> None:
    with pytest.raises(OffsetMalformed):
        parse(text)


@given(st.text())
def test_any_other_text_is_malformed_or_reads_back_as_it_was(text: str) -> None:
    try:
        place = parse(text)
    except OffsetMalformed:
        return
    assert str(place) == text


def test_the_message_about_a_huge_offset_is_short() -> None:
    with pytest.raises(OffsetMalformed) as refusal:
        parse("x" * 1_000_000)
    assert len(str(refusal.value)) < 200


def boots_of(history: list[int]) -> tuple[Epochs, list[tuple[int, int]], int]:
    """The boots b0, b1 …; where each began and ended; and the head."""
    ends = list(accumulate(history))
    begins = [0, *ends[:-1]]
    boots = Epochs((f"b{order}", begin) for order, begin in enumerate(begins))
    return boots, list(zip(begins, ends, strict=True)), ends[-1]


@given(HISTORIES, st.integers(0, 9), st.integers(0, 45))
def test_an_offset_is_placed_exactly_when_its_boot_reached_it(
    history: list[int], order: int, number: int
) -> None:
    boots, spans, head = boots_of(history)
    place = Offset(f"b{order}", number)
    if order >= len(spans):
        expected: type[OffsetRefused] | None = OffsetUnknown
    else:
        begin, end = spans[order]
        expected = None if begin <= number <= end else OffsetRolledBack
    if expected is None:
        assert boots.check(place, head) == place
    else:
        with pytest.raises(expected):
            boots.check(place, head)


@given(HISTORIES)
def test_every_event_was_written_by_the_boot_that_could_place_it(history: list[int]) -> None:
    boots, spans, head = boots_of(history)
    for number in range(1, head + 1):
        begin, end = spans[int(boots.epoch_of(number)[1:])]
        assert begin < number <= end


@given(HISTORIES, st.data())
def test_boots_precede_each_other_in_the_order_in_which_they_began(
    history: list[int], data: st.DataObject
) -> None:
    boots, spans, _ = boots_of(history)
    orders = st.integers(0, len(spans) - 1)
    earlier, later = data.draw(orders), data.draw(orders)
    assert boots.precedes(f"b{earlier}", f"b{later}") == (earlier < later)


def test_an_unknown_boot_precedes_nothing() -> None:
    boots, _, _ = boots_of([1])
    with pytest.raises(OffsetUnknown):
        boots.precedes("b0", "other")
