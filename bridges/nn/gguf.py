"""A GGUF file as transformers' models need it: their config, and its tensors by their parameters' names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from ...errors import FormatError
from ...lm import gguf_config, gguf_tensors
from ...lm.gguf_experts import MIXTURES
from ...loading import GGUFFile
from ...weights import QuantizedWeight
from . import saving


class Source:
    """A file and the config that mlx-lm would have of it."""

    def __init__(self, path: Path):
        self.file = GGUFFile(path)
        self.settings = gguf_config.config(self.file)
        if self.settings["model_type"] in MIXTURES:
            raise FormatError(f"{path.name}: found a mixture of experts, expected a dense model")

    def config(self) -> Any:
        """Transformers' config of the model."""
        from transformers import AutoConfig

        kind = self.settings["model_type"]
        known = AutoConfig.for_model(kind).to_dict().keys() - {"model_type"}
        settings = {key: value for key, value in self.settings.items() if key in known}
        for token, key in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
            settings[f"{token}_token_id"] = self.file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        return AutoConfig.for_model(kind, **settings)

    def weights(self, parameters: Iterable[str]) -> Iterator[tuple[str, QuantizedWeight | mx.array]]:
        """The file's weights by the names of the model's parameters, read one by one."""
        tied = {"lm_head.weight"} if self.settings["tie_word_embeddings"] else set()
        return gguf_tensors.tensors(self.file, self.settings, [name for name in parameters if name not in tied])

    def finish(self, model: Any) -> None:
        saving.refuse(model, self.file.path.name)
