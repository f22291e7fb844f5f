"""What `save_pretrained` does for a model with packed layers: it writes a folder that opens again, or it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ...errors import FormatError
from ...loading.folder import Folder
from ...loading.modules import packed_modules
from ...loading.schemes import scheme
from .base import Packed

# The layouts of folders that the layers' own tensors have.
AS_STORED = ("gptq", "awq", "pack-quantized")


def prepare(model: Any, path: Path) -> None:
    """Gives a model the settings of its folder; or makes it refuse, if its tensors are not the folder's own."""
    packed = {name: layer for name, layer in model.named_modules() if isinstance(layer, Packed)}
    if not packed:
        return
    folder = Folder(path)
    if _as_stored(packed, folder):
        model.config.quantization_config = dict(folder.quantization)
    else:
        refuse(model, path.name)


def refuse(model: Any, name: str) -> None:
    """Makes `save_pretrained` of a model with layers of a checkpoint an error that says what to do."""
    # A function without the model: a cycle would keep the model's memory.
    model.save_pretrained = partial(_refuse, name)


def _as_stored(packed: dict[str, Packed], folder: Folder) -> bool:
    try:
        modules = packed_modules(folder, scheme(folder.quantization))
    except FormatError:  # a folder of mlx-lm with this package's own layout
        return False
    for name, layer in packed.items():
        if name not in modules or modules[name].layout not in AS_STORED:
            return False
        for part, tensor in layer.named_buffers():
            file = folder.tensors.get(f"{name}.{part}")
            stored = file and tuple(file.tensors[f"{name}.{part}"].shape)
            if stored != tuple(tensor.shape) and part != "g_idx":  # files may lack g_idx
                return False
    return True


def _refuse(name: str, *_: Any, **__: Any) -> NoReturn:
    raise FormatError(
        f"save_pretrained: found layers of {name}, whose packed tensors no folder of transformers holds as they are; "
        f"expected a copy of {name} itself, or torch.save(model.state_dict(), file). "
        "An adapter alone is saved by type(model).save_pretrained(model, folder)"
    )
