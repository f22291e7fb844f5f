"""Division by a number known before a launch, as shaders do it: by multiplication."""


def fast_divmod(divisor: int) -> tuple[int, int]:
    """Multiplier and shift: `n // divisor == (2 * n * multiplier >> 32) >> shift` for n below 2**31, exactly."""
    shift = (divisor - 1).bit_length()
    return -(-(2 ** (31 + shift)) // divisor), shift


def grouping(size: int, groups: int) -> dict[str, int]:
    """The group size as shaders read it, and what divides by it.

    One group has no boundary: its size is one that is never reached.
    """
    size = 2**31 if groups == 1 else size
    multiplier, shift = fast_divmod(size)
    return {"group_size": size, "group_multiplier": multiplier, "group_shift": shift}
