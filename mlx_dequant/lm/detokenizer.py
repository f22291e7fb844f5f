"""Text of byte-level tokens as it comes, byte for byte: mlx-lm's own loses a first space and bytes of 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def keep_all(wrapped: TokenizerWrapper) -> TokenizerWrapper:
    """Gives a tokenizer of byte-level tokens a detokenizer that keeps what its tokens say, in place."""
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, _byte_decoder

    class Detokenizer(BPEStreamingDetokenizer):
        def _maybe_trim_space(self, current_text: str) -> str:
            return current_text

        def _decode_bytes(self, seq: str) -> str:
            known: Any = _byte_decoder()
            parts = (bytes([known[letter]]) if letter in known else letter.encode() for letter in seq)
            return b"".join(parts).decode("utf-8", "replace")

        def finalize(self) -> None:
            self.text += self._decode_bytes(self._unflushed)
            self._unflushed = ""

    own: Any = wrapped
    if isinstance(own._detokenizer, BPEStreamingDetokenizer):
        own._detokenizer.__class__ = Detokenizer
    return wrapped
