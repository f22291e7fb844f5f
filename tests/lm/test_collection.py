"""What loading a model does to the process around it."""

import gc
from importlib import import_module

import pytest

from mlx_dequant.errors import FormatError

load = import_module("mlx_dequant.lm.load")  # the function of this name hides it


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_waits_while_a_model_loads(collects):
    before, found = gc.isenabled(), []

    @load._without_collection()
    def loading():
        found.append(gc.isenabled())
        raise FormatError("damaged")

    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(FormatError, match="damaged"):
            loading()
        assert found == [False]
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
