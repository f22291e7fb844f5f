"""mlx-lm's LoRA command on a model of ours."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

from mlx_lm import lora
from mlx_lm.tuner.callbacks import TrainingCallback

from mlx_dequant.lm.commands import run

SENTENCES = ("the rain in the train", "an attic on the other shore", "there is a tone in the area", "the end")


class _Losses(TrainingCallback):
    def __init__(self):
        self.found: list[float] = []

    def on_train_loss_report(self, train_info):
        self.found.append(float(train_info["train_loss"]))


def train(model: Path, folder: Path, *options: str) -> list[float]:
    """Trains adapters into folder/adapters: the loss of each step."""
    folder.mkdir()
    for part in ("train", "valid", "test"):
        (folder / f"{part}.jsonl").write_text("\n".join(json.dumps({"text": sentence}) for sentence in SENTENCES))
    places = ["--model", str(model), "--data", str(folder), "--adapter-path", str(folder / "adapters")]
    sizes = ["--batch-size", "1", "--num-layers", "2", "--val-batches", "1", "--steps-per-report", "1"]
    losses = _Losses()
    with patch.object(lora, "get_reporting_callbacks", lambda *args, **settings: losses):
        run("lora", [*places, "--train", *sizes, *options])
    return losses.found
