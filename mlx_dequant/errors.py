"""The errors this package raises on purpose."""


class FormatError(ValueError):
    """A weight, file or argument is not in a supported format.

    The message names the tensor, what was found and what was expected.
    """
