"""What is measured: an operation on a format, in the shape of a real model's layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# [out, in] of layers, by the names that the models give them.
LAYERS = {
    "Gemma-3-270M down_proj": (640, 2048),
    "Qwen3-4B k_proj": (1024, 2560),
    "Qwen3-4B q_proj": (4096, 2560),
    "Qwen3-4B gate_proj": (9728, 2560),
    "Llama-3-8B q_proj": (4096, 4096),
    "Llama-3-8B gate_proj": (14336, 4096),
    "Llama-3-8B down_proj": (4096, 14336),
    "Llama-3-70B gate_proj": (28672, 8192),
}
EMBEDDINGS = {
    "Gemma-3-270M embed_tokens": (262144, 640),
    "Qwen3-4B embed_tokens": (151936, 2560),
    "Llama-3-8B embed_tokens": (128256, 4096),
}
OPERATIONS = ("dequantize", "linear", "take", "to_mlx", "to_torch")
FORMATS = ("q4_0", "q4_k", "q6_k", "q8_0", "mxfp4", "awq4", "gptq4", "ct4")
VECTORS = (1, 8, 32, 512)
DTYPES = ("float16", "bfloat16", "float32")
CROSSINGS = (1, 64)  # MB


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        operation: one of `OPERATIONS`.
        format: a name that `weights.weight` knows; "" for a crossing.
        layer: a key of `LAYERS` or `EMBEDDINGS`; "64 MB" for a crossing.
        shape: [out, in] of the layer; [rows, columns] of the tensor that crosses.
        dtype: type of the result.
        vectors: rows of x, or ids looked up; 0 where there are none.
    """

    operation: str
    format: str
    layer: str
    shape: tuple[int, int]
    dtype: str = "float16"
    vectors: int = 0

    @property
    def title(self) -> str:
        """What a person calls it: "linear q4_k, Qwen3-4B q_proj, 32 x"."""
        count = f", {self.vectors} {'x' if self.operation == 'linear' else 'ids'}" if self.vectors else ""
        kind = "" if self.dtype == "float16" else f", {self.dtype}"
        return f"{f'{self.operation} {self.format}'.strip()}, {self.layer}{count}{kind}"


def quick(on_gpu: bool) -> list[Case]:
    """The cases that fit into a minute, the most telling first; a GPU gets a layer that fills it."""
    layer = "Llama-3-8B gate_proj" if on_gpu else "Qwen3-4B k_proj"
    shape = LAYERS[layer]
    cases = [Case("dequantize", name, layer, shape) for name in ("awq4", "q4_k", "q8_0")]
    for vectors in (1, 32):
        cases += [Case("linear", name, layer, shape, vectors=vectors) for name in ("q4_k", "awq4", "q8_0")]
    embedding = "Gemma-3-270M embed_tokens"
    cases.append(Case("take", "q8_0", embedding, EMBEDDINGS[embedding], vectors=512))
    return cases + list(crossings(CROSSINGS))


def crossings(megabytes: Sequence[int], operations: Sequence[str] = OPERATIONS) -> Iterator[Case]:
    """Tensors that cross between torch and MLX."""
    for operation in operations:
        if operation in ("to_mlx", "to_torch"):
            for size in megabytes:
                yield Case(operation, "", f"{size} MB", (size << 9, 1024))


def chosen(
    operations: Sequence[str],
    formats: Sequence[str],
    layers: Sequence[str],
    vectors: Sequence[int],
    dtypes: Sequence[str],
) -> list[Case]:
    """Every combination that makes sense."""
    cases: list[Case] = []
    for layer in layers:
        for dtype in dtypes:
            for name in formats:
                if "dequantize" in operations:
                    cases.append(Case("dequantize", name, layer, LAYERS[layer], dtype))
                if "linear" in operations:
                    cases += [Case("linear", name, layer, LAYERS[layer], dtype, m) for m in vectors]
    if "take" in operations:
        for layer, name in (("Gemma-3-270M embed_tokens", "q8_0"), ("Qwen3-4B embed_tokens", "q6_k")):
            cases.append(Case("take", name, layer, EMBEDDINGS[layer], vectors=512))
    return cases + list(crossings(CROSSINGS, operations))
