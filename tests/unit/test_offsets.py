from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketio_eventlog.errors import OffsetMalformed, OffsetRefused, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.events import Offset
from socketio_eventlog.offsets import Epochs, parse

EPOCH_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)
HISTORIES = st.lists(st.integers(0, 5), min_size=1, max_size=8)
"""The number of events in each epoch."""


@given(EPOCH_IDS, st.integers(0, 2**53 - 1))
def test_an_offset_survives_its_text(epoch: str, sequence: int) -> None:
    offset = Offset(epoch, sequence)
    assert parse(str(offset)) == offset


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "epoch",
        "epoch.",
        ".5",
        "5",
        "epoch.5.5",
        "ep.och.5",
        "epoch.+5",
        "epoch.-5",
        "epoch.05",
        "epoch.5 ",
        " epoch.5",
        "epoch.5\n",
        "epoch.1_000",
        "epoch.1e3",
        "epoch.5.0",
        "epoch.٥",  # an Arabic digit, which int() would take
        "epöch.5",
        f"{'e' * 33}.5",
        f"epoch.{2**53}",
        "epoch.99999999999999999999",
        "1526919030474-55",  # as Redis streams write them
    ],
)
def test_other_forms_are_malformed(text: str) -> None:
    with pytest.raises(OffsetMalformed):
        parse(text)


@given(st.text())
def test_any_text_is_malformed_or_survives(text: str) -> None:
    """Any text is malformed or equals the text of its parsed offset."""
    try:
        offset = parse(text)
    except OffsetMalformed:
        return
    assert str(offset) == text


def test_the_message_about_a_huge_offset_is_short() -> None:
    with pytest.raises(OffsetMalformed) as refusal:
        parse("x" * 1_000_000)
    assert len(str(refusal.value)) < 200


def epochs_of(history: list[int]) -> tuple[Epochs, list[tuple[int, int]], int]:
    """The epochs e0, e1 …; the first and last head of each; and the head of the log."""
    ends = list(accumulate(history))
    begins = [0, *ends[:-1]]
    epochs = Epochs((f"e{rank}", begin) for rank, begin in enumerate(begins))
    return epochs, list(zip(begins, ends, strict=True)), ends[-1]


@given(HISTORIES, st.integers(0, 9), st.integers(0, 45))
def test_check_accepts_the_range_of_the_epoch(history: list[int], rank: int, sequence: int) -> None:
    """An offset is accepted exactly when its epoch reached its sequence."""
    epochs, spans, head = epochs_of(history)
    offset = Offset(f"e{rank}", sequence)
    if rank >= len(spans):
        expected: type[OffsetRefused] | None = OffsetUnknown
    else:
        begin, end = spans[rank]
        expected = None if begin <= sequence <= end else OffsetRolledBack
    if expected is None:
        assert epochs.check(offset, head) == offset
    else:
        with pytest.raises(expected):
            epochs.check(offset, head)


@given(HISTORIES)
def test_epoch_of_agrees_with_check(history: list[int]) -> None:
    """The epoch of an event is the epoch whose range contains the event."""
    epochs, spans, head = epochs_of(history)
    for sequence in range(1, head + 1):
        begin, end = spans[int(epochs.epoch_of(sequence)[1:])]
        assert begin < sequence <= end


@given(HISTORIES, st.data())
def test_epochs_precede_in_their_order(history: list[int], data: st.DataObject) -> None:
    epochs, spans, _ = epochs_of(history)
    ranks = st.integers(0, len(spans) - 1)
    earlier, later = data.draw(ranks), data.draw(ranks)
    assert epochs.precedes(f"e{earlier}", f"e{later}") == (earlier < later)


def test_an_unknown_epoch_precedes_nothing() -> None:
    epochs, _, _ = epochs_of([1])
    with pytest.raises(OffsetUnknown):
        epochs.precedes("e0", "other")
