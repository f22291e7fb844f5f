"""`mlx-dequant doctor --plans` prints the dispatcher's tables."""

import json

import pytest

from mlx_dequant import tuning
from mlx_dequant.cli import main


def test_the_table_and_the_plans_of_a_format(capsys):
    assert main(["doctor", "--plans", "metal", "--format", "q4_k"]) == 0
    printed = capsys.readouterr().out
    for row in tuning.METAL.routes:
        assert row.reason in printed
    assert "qmv[1, 4, 4, 32] x 512" in printed
    assert "CUDA" not in printed and "cuda" not in printed


def test_every_format_has_a_plan(capsys, tmp_path):
    file = tmp_path / "plans.json"
    assert main(["doctor", "--plans", "cuda:90", "--json", str(file)]) == 0
    (found,) = json.loads(file.read_text())["plans"].values()
    assert len(found["table"]) == len(tuning.HOPPER.routes)
    assert all(len(lines) == 6 for lines in found["formats"].values())


@pytest.mark.parametrize("device", ["vulkan", "cuda:new"])
def test_no_such_device(device, capsys):
    assert main(["doctor", "--plans", device]) == 2
    assert device in capsys.readouterr().err
