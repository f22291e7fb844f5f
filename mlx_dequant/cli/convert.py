"""Write a quantized model as a folder, packed as it is or in MLX's own format.

A packed folder has the same bits in safetensors files, for mlx-dequant. With `--to mlx`, mlx_lm.load opens the folder
without mlx-dequant: codes that fit MLX's layout (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, MXFP4, NVFP4, AWQ, and GPTQ
and compressed-tensors without act-order) are kept, their scales rounded to float16; other layers become float16. A line
for each layer says what it became, and the largest error of a weight relative to the largest weight.

The folder appears when it is complete. Needs mlx-lm: pip install 'mlx-dequant[lm]'.
Exit status: 0; 2 for a model that cannot be loaded, or a folder that is there already.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..diagnostics.output import add_json, console, write_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, or a folder with safetensors")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--to", choices=("packed", "mlx"), default="packed", help="the format (packed)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    try:
        from ..lm import convert
    except ImportError as error:
        raise OSError(str(error)) from None
    out = console(options)
    rows = convert(
        options.model,
        options.out,
        options.to,
        lambda row: out.print(
            f"{row.name}: {row.source} to {row.target}, {f'error {row.error:.1e}' if row.error else 'exact'}"
        ),
    )
    exact = sum(row.error == 0 for row in rows)
    out.print(f"{options.out}: {len(rows)} layers, {exact} of them exact")
    write_json(options, {"model": options.model, "out": options.out, "layers": [asdict(row) for row in rows]})
    return 0
