"""Division by a number known before a launch. Shaders do it by multiplication."""


def fast_divmod(divisor: int) -> tuple[int, int]:
    """Multiplier and shift: `n // divisor == (2 * n * multiplier >> 32) >> shift` for n below 2**31, exactly."""
    shift = (divisor - 1).bit_length()
    return -(-(2 ** (31 + shift)) // divisor), shift


def grouping(size: int, groups: int) -> dict[str, int]:
    """The launch parameters of groups: their size, and the multiplier and shift that divide by it.

    A single group gets size 2^31, which no input reaches.
    """
    size = 2**31 if groups == 1 else size
    multiplier, shift = fast_divmod(size)
    return {"group_size": size, "group_multiplier": multiplier, "group_shift": shift}
