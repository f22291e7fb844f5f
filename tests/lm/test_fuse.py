"""Models of mlx-lm whose layers share products answer as those whose layers do not."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_dequant as mxd

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from lm_folders import write_folder  # noqa: E402
from lm_models import transformers_model, write_gguf  # noqa: E402
from lm_ranks import Rank  # noqa: E402
from mlx_lm import utils  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402
