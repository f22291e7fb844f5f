"""`mlx-dequant verify`."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from gguf_bytes import gguf_bytes
from support import gguf_fixture

import mlx_dequant as mxd
from mlx_dequant.cli import main
from mlx_dequant.diagnostics import verify

TYPES = ("f32", "bf16", "q8_0", "q6_k", "q1_0", "q2_0")


@pytest.fixture
def model(tmp_path):
    """A file with a tensor of real blocks of each type, and a stack of two Q8_0 matrices."""
    tensors = {}
    for name in TYPES:
        form = mxd.formats()[name]
        if name in ("f32", "bf16"):
            values = np.random.default_rng(1).standard_normal((4, 32), np.float32).view(np.uint16)
            blocks = values if name == "f32" else values[:, 1::2].copy()
            tensors[name] = (form.ggml_type, (4, 32), blocks.tobytes())
        else:
            blocks, expected = gguf_fixture(name)["real"]
            tensors[name] = (form.ggml_type, expected.shape, blocks.tobytes())
    tensors["stack"] = (8, (2, 3, 64), np.tile(np.arange(34, dtype=np.uint8), 12).tobytes())
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(tensors))
    return path


def run(model, capsys, *options) -> tuple[int, dict, str]:
    status = main(["verify", str(model), "--json", "-", *options])
    out, err = capsys.readouterr()
    return status, json.loads(out), err


def test_every_bit_of_real_blocks(model, capsys, backend):
    status, result, err = run(model, capsys)
    assert status == 0
    assert result["wrong"] == 0
    assert result["backend"].split(":")[0] == backend
    assert [row["type"] for row in result["types"]] == [mxd.formats()[name].title for name in TYPES]
    row = result["types"][2]
    assert (row["tensors"], row["weights"]) == (2, gguf_fixture("q8_0")["real"][1].size + 2 * 3 * 64)
    assert row["gbps"] > 0 and row["times_gguf"] > 0 and row["copy_share"] > 0
    assert result["types"][0]["gbps"] is None
    assert result["peak_memory"] > 10e6
    assert "every bit equals" in err


@pytest.mark.parametrize("rounds", ["1", "2"])
def test_one_wrong_bit_is_found(model, capsys, monkeypatch, rounds):
    right = mxd.GGUFWeight.dequantize

    def wrong(weight, dtype=None):
        found = np.array(right(weight, dtype))
        if weight.format.name == "q6_k":
            found.reshape(-1).view(np.uint32)[-1] ^= 1
        return mx.array(found)

    monkeypatch.setattr(mxd.GGUFWeight, "dequantize", wrong)
    status, result, err = run(model, capsys, "--rounds", rounds)
    assert status == 1
    assert result["wrong"] == 1
    assert {row["type"]: row["differing"] for row in result["types"] if row["wrong"]} == {"Q6_K": ["q6_k"]}
    assert "WRONG: 1 of " in err and "in q6_k" in err


def test_what_the_reference_ran_in_the_hosts_place_is_not_verified(model, capsys, host, monkeypatch):
    monkeypatch.setattr("mlx_dequant.backends.host.library._library", lambda *_: None)
    status, result, err = run(model, capsys)
    assert status == 1
    assert result["wrong"] == 0
    assert [row["compiled"] for row in result["types"]] == [name == "f32" for name in TYPES]
    assert "NOT VERIFIED: BF16, Q8_0, Q6_K, Q1_0, Q2_0 could not be compiled" in err
    assert "every bit" not in err


def test_large_tensors_are_compared_in_parts(model, capsys, monkeypatch):
    whole = run(model, capsys)[1]
    monkeypatch.setattr(verify, "PART", 100)
    parts = []
    compared = verify._compare_part

    def counted(row, blocks, rounds):
        parts.append(len(blocks))
        return compared(row, blocks, rounds)

    monkeypatch.setattr(verify, "_compare_part", counted)
    status, result, _ = run(model, capsys)
    assert status == 0
    assert [row["weights"] for row in result["types"]] == [row["weights"] for row in whole["types"]]
    assert parts[:2] == [3, 1]  # four rows of 32 weights


def test_a_file_without_weights_is_not_verified(tmp_path, capsys):
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(gguf_bytes({}, {"tokens": ["a"]}))
    assert main(["verify", str(path)]) == 2
    assert "found no weights" in capsys.readouterr().err
