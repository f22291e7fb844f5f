"""The table of settings, beside the sources of mlx-lm's and transformers' models."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra lm)")
pytest.importorskip("torch", reason="torch is not installed")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import mlx_dequant as mxd
from mlx_dequant.lm import folder, settings
from mlx_dequant.lm.settings_table import HARMLESS, NESTED, ROWS, USUAL

# Their default configs ask for what mlx-lm's models lack.
REFUSED = {"deepseek_v2": "rope_scaling.rope_type: found 'default', expected yarn"}
# What transformers' models read from every config, and labels of what is not language modelling.
NOT_SETTINGS = {"to_dict", "get_text_config", "per_layer_config", "classifier_dropout", "num_labels"}


def attributes(source: str, names: set[str]) -> set[str]:
    """What a program reads from objects that have one of the names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", None)
            found |= {node.attr} if owner in names else set()
    return found


def test_it_has_thirty_types():
    assert len(ROWS) >= 30


@pytest.mark.parametrize("kind", ROWS)
def test_no_key_that_transformers_reads_is_ignored(kind):
    row, arguments = ROWS[kind], folder.classes({"model_type": kind})[1]
    source = inspect.getsource(sys.modules[arguments.__module__])
    own = settings.names(arguments)
    inherited = arguments.__mro__[1].__module__ != "mlx_lm.models.base" or kind in NESTED
    read = attributes(source, {"args", "config"}) | set(re.findall(r"self\.(\w+)", source))
    accounted = (own if inherited else own & read) | HARMLESS | row.fixed.keys() | set(row.harmless) | {"head_dim"}
    accounted |= USUAL.keys() - own
    if row.activation:
        accounted.add(row.activation)
    config = CONFIG_MAPPING[kind]
    folder_of = Path(inspect.getfile(config)).parent
    theirs = set().union(*(attributes(file.read_text(), {"config"}) for file in folder_of.glob("modeling_*.py")))
    keys = config().to_dict().keys() | config.attribute_map.keys()
    other = {**config.attribute_map, **{key: name for name, key in config.attribute_map.items()}}
    ignored = {key for key in keys & theirs - accounted - NOT_SETTINGS if other.get(key) not in accounted}
    assert not ignored


@pytest.mark.parametrize("kind", [*ROWS, "gemma3", "mistral3", "qwen2_vl", "qwen3_vl"])
def test_the_default_config_of_a_type_is_understood(kind):
    config = CONFIG_MAPPING[kind]().to_dict()
    if kind in REFUSED:
        with pytest.raises(mxd.FormatError, match=REFUSED[kind]):
            folder.read(config)
    else:
        assert folder.read(config)["model_type"] == kind


# Keys that publishers wrote and transformers' config classes do not have, at values that the models compute with.
PUBLISHED = {
    "cohere2": {
        "layer_switch": 4,
        "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rotary_pct": 1.0,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": True,
    },
    "deepseek_v2": {"scoring_func": "softmax", "aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1},
    "deepseek_v3": {"scoring_func": "sigmoid", "num_nextn_predict_layers": 1, "ep_size": 1},
    "gemma2": {"sliding_window_size": 4096},
    "granitemoehybrid": {
        "init_method": "mup",
        "mamba_chunk_size": 256,
        "mamba_expand": 2,
        "normalization_function": "rmsnorm",
        "layer_types": [*["mamba"] * 31, "attention"],
    },
    "hunyuan_v1_dense": {
        "add_classification_head": False,
        "attention_head_dim": 128,
        "cla_share_factor": 2,
        "class_num": 0,
        "dense_list": [4096, 0],
        "norm_type": "rms",
        "org_vocab_size": 120818,
        "pool_type": "last",
        "use_cla": False,
    },
    "minimax_m2": {
        "attn_type_list": [1] * 62,
        "mtp_transformer_layers": 1,
        "num_mtp_modules": 3,
        "qk_norm_type": "per_layer",
        "rotary_dim": 64,
        "head_dim": 128,
        "use_mtp": True,
        "use_routing_bias": True,
        "use_qk_norm": True,
        "shared_intermediate_size": 0,
    },
    "qwen3_5_text": {"attn_output_gate": True, "output_gate_type": "swish", "mlp_only_layers": []},
    "qwen3_5_moe_text": {"attn_output_gate": True, "mlp_only_layers": []},
    "starcoder2": {
        "activation_function": "gelu",
        "attention_softmax_in_fp32": True,
        "layer_norm_epsilon": 1e-5,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
    },
    "lfm2": {
        "block_mlp_init_scale": 1.0,
        "block_norm_eps": 1e-5,
        "block_out_init_scale": 1.0,
        "block_use_swiglu": True,
        "block_use_xavier_init": True,
        "conv_dim": 2560,
        "conv_dim_out": 2560,
        "conv_use_xavier_init": True,
        "num_heads": 32,
        "theta": 1e6,
        "tie_embedding": True,
        "use_pos_enc": True,
    },
}
YARN = {"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}


def default(kind):
    return CONFIG_MAPPING[kind]().to_dict() | (YARN if kind == "deepseek_v2" else {})


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_keys_are_understood(kind):
    found = folder.read(default(kind) | PUBLISHED[kind])
    assert found["model_type"] == kind
    if kind == "granitemoehybrid":
        assert found["layer_types"] == PUBLISHED[kind]["layer_types"]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("cohere2", "layer_switch", 3),
        ("deepseek_v2", "scoring_func", "sigmoid"),
        ("gemma2", "sliding_window_size", 2048),
        ("granitemoehybrid", "normalization_function", "layernorm"),
        ("hunyuan_v1_dense", "use_cla", True),
        ("minimax_m2", "use_routing_bias", False),
        ("qwen3_5_text", "attn_output_gate", False),
        ("starcoder2", "scale_attn_weights", False),
        ("lfm2", "block_use_swiglu", False),
        ("lfm2", "tie_embedding", False),
    ],
)
def test_other_values_of_published_keys_are_refused(kind, key, value):
    key_read = "tie_word_embeddings" if key == "tie_embedding" else key
    with pytest.raises(mxd.FormatError, match=f"{key_read}: found {value!r}"):
        folder.read(default(kind) | {key: value})
