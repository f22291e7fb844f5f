"""The metadata of a GGUF file below its architecture's name: each key is read, changes nothing, or is refused.

What the keys mean is read from gguf-py's constants and llama.cpp's models of ARCHITECTURES. `Keys` notes which ones are
read; the rest stand here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..errors import FormatError
from ..loading import GGUFFile

# Keys that change no logits of a dense text model, or none where `gguf_config` and `gguf_experts` do not read them.
HARMLESS = frozenset(
    """
    vocab_size context_length pooling_type rope.scaling.finetuned rope.dimension_sections mrope_sections
    attention.layer_norm_epsilon attention.layer_norm_rms_epsilon attention.temperature_length use_parallel_residual
    rope.scaling.original_context_length rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
    expert_used_count expert_shared_count expert_group_count expert_group_used_count expert_feed_forward_length
    n_deepstack_layers ssm.conv_kernel ssm.group_count ssm.inner_size ssm.state_size ssm.time_step_rank
    expert_shared_feed_forward_length expert_weights_scale expert_weights_norm expert_gating_func
    """.split()  # noqa: SIM905
)
# What stands beside the text model in one file.
BESIDE = ("vision.", "audio.", "mm.")
# The values with which the models compute. 0 switches most of these off, as in llama.cpp.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "tensor_data_layout": ("Meta AI original pth",),
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.shared_kv_layers": (0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attention.temperature_scale": (0.0,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "rope.scaling.yarn_attn_factor": (1.0,),  # llama.cpp's releases disagree what others do
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


class Keys:
    """The metadata whose keys begin with the architecture's name.

    Args:
        file: an open file.
        ignore: whole names of keys to leave out.

    Attributes:
        file: the file's name.
        tensors: its tensors by name.
    """

    def __init__(self, file: GGUFFile, ignore: Collection[str] = ()):
        self.file, self.tensors = file.path.name, file.tensors
        self._prefix = f"{file.metadata['general.architecture']}."
        self._values = {
            key.removeprefix(self._prefix): value
            for key, value in file.metadata.items()
            if key.startswith(self._prefix) and key not in ignore
        }
        self._read: set[str] = set()

    def fail(self, key: str, found: Any, expected: str) -> FormatError:
        shown = f"{len(found)} values" if isinstance(found, (list, np.ndarray)) else repr(found)
        return FormatError(f"{self.file}: {self._prefix}{key}: found {shown}, expected {expected}")

    def get(self, key: str, default: Any, kind: type = int) -> Any:
        self._read.add(key)
        value = self._values.get(key, default)
        if value is not default and type(value) is not kind:
            raise self.fail(key, value, kind.__name__)
        return value

    def need(self, key: str, kind: type = int) -> Any:
        value = self.get(key, None, kind)
        if value is None:
            raise self.fail(key, None, kind.__name__)
        if kind is int and value <= 0:
            raise self.fail(key, value, "a positive integer")
        return value

    def layers(self, key: str, count: int) -> list[Any] | None:
        """A value a layer, or None where the file has one value or none."""
        value = self._values.get(key)
        if not isinstance(value, (list, np.ndarray)):
            return None
        if len(value) != count:
            raise self.fail(key, value, f"{count}, one a layer")
        self._read.add(key)
        return value if isinstance(value, list) else value.tolist()

    def check_rest(self) -> None:
        """Refuses keys that nothing has read, unless a table above has them."""
        for key, value in self._values.items():
            if key in self._read or key in HARMLESS or key.startswith(BESIDE):
                continue
            name = self._prefix + key
            if key not in FIXED:
                raise self.fail(key, value, f"none such: nothing reads it; load(..., ignore=[{name!r}]) leaves it out")
            if not any(type(value) is type(known) and value == known for known in FIXED[key]):
                raise self.fail(key, value, " or ".join(map(repr, FIXED[key])))
