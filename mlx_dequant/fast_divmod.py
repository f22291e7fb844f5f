"""Division by a number known before a launch, as shaders do it: by multiplication."""


def fast_divmod(divisor: int) -> tuple[int, int]:
    """Multiplier and shift: `n // divisor == (2 * n * multiplier >> 32) >> shift` for n below 2**31, exactly."""
    shift = (divisor - 1).bit_length()
    return -(-(2 ** (31 + shift)) // divisor), shift
