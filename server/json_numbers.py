"""The numbers of JSON, exactly: what JSON Schema calls an integer is one, however it is written."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal, InvalidOperation

MAX_DIGITS = 100


def integer(text: str) -> int:
    """Return the value of digits. Raises ValueError for more of them than any field can hold."""
    if len(text) > MAX_DIGITS:  # Python itself refuses thousands, in words that are no use to a client.
        raise ValueError(f"the number {text[:MAX_DIGITS]}… is too long")
    return int(text)


def real(text: str) -> int | float:
    """Return the value of a number with a fraction or an exponent: of 1.0 or 1e2, an int."""
    # Most have a fraction and no exponent, and a body may have a million of them.
    if text[-1] != "0" and "e" not in text and "E" not in text:
        return float(text)
    whole = whole_number(text)
    return float(text) if whole is None else whole


def whole_number(text: str) -> int | None:
    """Return the integer that a number is; None for a fraction, and for an integer of more than MAX_DIGITS digits."""
    with suppress(InvalidOperation):  # an exponent that no Decimal holds
        # A float would round: 1.00000000000000000001 is no integer. The bound keeps 1e999999999 from being written out.
        number = Decimal(text)
        if number.is_zero() or (abs(number.adjusted()) < MAX_DIGITS and number == int(number)):
            return int(number)
    return None
