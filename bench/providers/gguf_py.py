"""gguf-py: NumPy's operations, as `gguf.quants.dequantize` does them. Torch users on MPS have this for GGUF."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np

from ...diagnostics.timing import done
from ..cases import Case
from ..data import Data
from . import Provider, Ready

NUMPY = {"float32": np.float32, "float16": np.float16}


class GGUFPy:
    """NumPy, one thread."""

    name = "gguf-py"
    device = "cpu"

    def prepare(self, case: Case, data: Data) -> Ready | None:
        if case.dtype not in NUMPY:
            return None
        form, dtype = data.weights[0].format, NUMPY[case.dtype]
        kinds = {int(kind) for kind in gguf.quants._type_traits}
        if form.family != "gguf" or form.ggml_type not in kinds:
            return None
        blocks = [np.asarray(w.arrays["blocks"]) for w in data.weights]
        kind = gguf.GGMLQuantizationType(form.ggml_type)

        def call(i: int) -> Any:
            rows = blocks[i % len(blocks)]
            if case.case == "take":
                rows = rows[data.ids[i % len(data.ids)]]
            return gguf.quants.dequantize(rows, kind).astype(dtype, copy=False)

        return Ready(call, done, lambda result: result.astype(np.float32))


def found() -> list[Provider]:
    return [GGUFPy()]
