"""gguf-py: NumPy's operations, as `gguf.quants.dequantize` does them. Torch users on MPS have this for GGUF."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np

from ..cases import Case
from ..data import Data
from . import Contestant, Ready, done

NUMPY = {"float32": np.float32, "float16": np.float16}


class GGUFPy:
    """NumPy, one thread."""

    name = "gguf-py"
    device = "cpu"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if case.operation not in ("dequantize", "take") or case.dtype not in NUMPY:
            return None
        form, dtype = data.weights[0].format, NUMPY[case.dtype]
        kinds = {int(kind) for kind in gguf.quants._type_traits}
        if form.family != "gguf" or form.ggml_type not in kinds:
            return None
        blocks = [np.asarray(w.inputs["blocks"]) for w in data.weights]
        kind = gguf.GGMLQuantizationType(form.ggml_type)

        def call(i: int) -> Any:
            given = blocks[i % len(blocks)]
            if case.operation == "take":
                given = given[data.ids[i % len(data.ids)]]
            return gguf.quants.dequantize(given, kind).astype(dtype, copy=False)

        return Ready(call, done, lambda result: result.astype(np.float32))


def found() -> list[Contestant]:
    return [GGUFPy()]
