"""What is measured. A case is an operation on a format, in the shape of a real model's layer.

Each operation is one file here. It says which providers take part (`PROVIDERS`), what they get (`data`), which bytes
are counted (`nbytes`), what shape a result has (`result`), what is right (`check`, `CHECK` in short), and whether
results are new memory (`FRESH`). `overhead` and `generation` measure something else and make their rows themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

# [out, in] of layers, by the names that the models give them.
LAYERS = {
    "Gemma-3-270M down_proj": (640, 2048),
    "Qwen3-4B k_proj": (1024, 2560),
    "Qwen3-4B q_proj": (4096, 2560),
    "Qwen3-4B gate_proj": (9728, 2560),
    "Llama-3-8B q_proj": (4096, 4096),
    "Llama-3-8B gate_proj": (14336, 4096),
    "Llama-3-8B down_proj": (4096, 14336),
    "Llama-3-70B down_proj": (8192, 28672),
    "Llama-3-70B gate_proj": (28672, 8192),
}
EMBEDDINGS = {
    "Gemma-3-270M embed_tokens": (262144, 640),
    "Qwen3-4B embed_tokens": (151936, 2560),
    "Llama-3-8B embed_tokens": (128256, 4096),
}
# Operations and the files that define them.
FILES = {
    "dequantize": "dequantize", "linear": "linear", "take": "take", "to_mlx": "crossing", "to_torch": "crossing",
}  # fmt: skip
OPERATIONS = tuple(FILES)
FORMATS = ("q4_0", "q4_k", "q6_k", "q8_0", "mxfp4", "awq4", "gptq4", "ct4")
ACT_ORDER = "-act"  # after a format's name: with g_idx
FUSED = "-fused"  # after a format's name, of whole models: layers that take the same x share a product
ROWS = (1, 8, 32, 512)
DTYPES = ("float16", "bfloat16", "float32")
CROSSINGS = (1, 64)  # MB


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        case: one of `OPERATIONS`.
        format: a registry name; "" where a plain tensor crosses between frameworks.
        layer: a name; "64 MB" for a tensor that crosses.
        shape: [out, in] of the layer, or the tensor's.
        dtype: type of the result.
        M: rows of x, or ids looked up; 0 where there are none.
        has_g_idx: whether the weight has act-order.
    """

    case: str
    format: str
    layer: str
    shape: tuple[int, int]
    dtype: str = "float16"
    M: int = 0
    has_g_idx: bool = False

    @property
    def operation(self) -> Any:
        """The module that defines it."""
        return import_module(f".{FILES[self.case]}", __name__)

    @property
    def title(self) -> str:
        """What a person calls it: "linear q4_k, Qwen3-4B q_proj, 32 rows"."""
        what = f"{self.case} {self.format}{ACT_ORDER if self.has_g_idx else ''}".strip()
        count = f"{self.M} {'ids' if self.case == 'take' else 'row' if self.M == 1 else 'rows'}" if self.M else ""
        return ", ".join(filter(None, [what, self.layer, count, "" if self.dtype == "float16" else self.dtype]))


def quick(on_gpu: bool) -> list[Case]:
    """The cases that fit into a minute, the most telling first; a GPU gets a layer that fills it."""
    layer = "Llama-3-8B gate_proj" if on_gpu else "Qwen3-4B k_proj"
    cases = [Case("dequantize", name, layer, LAYERS[layer]) for name in ("awq4", "q4_k", "q8_0")]
    cases += [Case("linear", name, layer, LAYERS[layer], M=M) for M in (1, 32) for name in ("q4_k", "awq4", "q8_0")]
    embedding = "Gemma-3-270M embed_tokens"
    cases.append(Case("take", "q8_0", embedding, EMBEDDINGS[embedding], M=512))
    return cases + crossings(OPERATIONS)


def crossings(operations: Sequence[str]) -> list[Case]:
    """Tensors that cross between torch and MLX."""
    names = [name for name in operations if FILES[name] == "crossing"]
    return [Case(name, "", f"{size} MB", (size << 9, 1024)) for name in names for size in CROSSINGS]


def chosen(
    operations: Sequence[str],
    formats: Sequence[str],
    layers: dict[str, tuple[int, int]],
    rows: Sequence[int],
    dtypes: Sequence[str],
) -> list[Case]:
    """Every combination that makes sense."""
    cases: list[Case] = []
    for layer, shape in layers.items():
        for dtype in dtypes:
            for name in formats:
                kind = name.removesuffix(ACT_ORDER)
                counts = {"dequantize": (0,), "linear": rows}
                cases += [
                    Case(operation, kind, layer, shape, dtype, M, kind != name)
                    for operation in ("dequantize", "linear")
                    if operation in operations
                    for M in counts[operation]
                ]
    if "take" in operations:
        for layer, name in (("Gemma-3-270M embed_tokens", "q8_0"), ("Qwen3-4B embed_tokens", "q6_k")):
            cases.append(Case("take", name, layer, EMBEDDINGS[layer], M=512))
    return cases + crossings(operations)
