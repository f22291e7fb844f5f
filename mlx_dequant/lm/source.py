"""Where a model is: a file, a folder, or a repository of the Hugging Face Hub; and whether it is one of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..loading.folder import quantization
from ..loading.mapped import files, read_json
from ..loading.schemes import method
from ..loading.stored import METHOD

# Methods whose folders mlx-lm does not read, or reads in part only.
METHODS = ("gptq", "awq", "compressed-tensors", "auto-round", METHOD)
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def is_ours(path: Path) -> bool:
    """Whether this package opens a path: a GGUF file, or a folder quantized by one of METHODS."""
    if path.is_file():
        with path.open("rb") as file:
            return file.read(4) in (b"GGUF", b"FUGG") or path.suffix.lower() == ".gguf"
    return path.is_dir() and _quantized(path)


def _quantized(folder: Path) -> bool:
    config: dict[str, Any] = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if isinstance(config.get("quantization"), dict):
        return False  # MLX's own
    return method(quantization(folder, config)) in METHODS


def only_gguf(path: Path) -> Path:
    """The path, but for a folder without safetensors: its GGUF file, the first one of a split.

    Raises:
        FormatError: the folder holds several models.
    """
    if not path.is_dir() or files(path, "*.safetensors"):
        return path
    names = [file.name for file in files(path, "*.gguf")]
    return path / _choice(path.name, names, "give the path of one") if names else path


def _choice(place: str, names: Sequence[str], advice: str) -> str:
    """The one GGUF model among files: mmproj files and later parts of a split file do not count."""
    later = {name for name in names if (part := PART.search(name)) and int(part[1]) != 1}
    heads = [name for name in names if name not in later and "mmproj" not in name]
    if len(heads) != 1:
        raise FormatError(f"{place}: found {', '.join(heads) or 'none'} as GGUF models, expected one: {advice}")
    return heads[0]


def split(name: str) -> tuple[str, str | None]:
    """ "REPO:FILE.gguf" as its repository and its file; None for another name."""
    repo, colon, file = name.rpartition(":")
    return (repo, file) if colon and file.lower().endswith(".gguf") else (name, None)


def download(name: str, revision: str | None, patterns: Sequence[str] | None) -> Path:
    """A model of the Hub in huggingface_hub's cache: mlx-lm's files, all weights of a folder of ours, or a GGUF file.

    Raises:
        FileNotFoundError: the repository has no such file.
        FormatError: it has several GGUF files and no other weights.
    """
    from huggingface_hub import snapshot_download
    from mlx_lm import utils

    repo, file = split(name)
    if file is None:
        wanted = list(patterns or utils.DEFAULT_ALLOW_PATTERNS)
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
        if patterns is None and _quantized(folder):
            # Their tools have names of their own for weights.
            return Path(snapshot_download(repo, revision=revision, allow_patterns=[*wanted, "*.safetensors"]))
        names = [] if files(folder, "*.safetensors") else _ggufs(repo, revision, folder)
        if not names:
            return folder
        file = _choice(repo, names, f"give {repo}:FILE")
    pattern = PART.sub(r"-?????-of-\2.gguf", escape(file))
    folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[pattern]))
    if not (folder / file).is_file():
        listed = ", ".join(_ggufs(repo, revision, folder)) or "no GGUF file"
        raise FileNotFoundError(f"{repo}: found {listed}, expected {file}")
    return folder / file


def _ggufs(repo: str, revision: str | None, folder: Path) -> list[str]:
    """The repository's GGUF files; offline those in the cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        names = HfApi().list_repo_files(repo, revision=revision)
    except OfflineModeIsEnabled:
        names = [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]
    return sorted(name for name in names if name.lower().endswith(".gguf"))
