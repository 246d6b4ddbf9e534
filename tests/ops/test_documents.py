"""What the documents say of the operators is so: names exist, and numbers are those that the code counts."""

import ast
import contextlib
import io
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acmix import ops
from tests.support.paths import ROOT

README = (ROOT / "acmix" / "ops" / "README.md").read_text()
EQUATIONS = re.findall(r"\| `([\w/.]+)` \| `([\w.]+)` \|$", (ROOT / "docs" / "equations.md").read_text(), re.MULTILINE)
# side, channels, heads of Swin-T's stages
STAGES = [(56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24)]


def definitions(tree, prefix=""):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name
            yield from definitions(node, f"{prefix}{node.name}.")


def test_every_row_of_the_equations_names_a_file_and_a_function():
    rows = [line for line in (ROOT / "docs" / "equations.md").read_text().splitlines() if line.startswith("| ")]
    assert len(EQUATIONS) == len(rows) - 1


@pytest.mark.parametrize(("file", "name"), sorted(set(EQUATIONS)))
def test_the_equation_is_where_the_document_says(file, name):
    assert name in set(definitions(ast.parse((ROOT / file).read_text())))


def printed():
    snippet = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(snippet, {})
    return out.getvalue()


def test_the_table_of_costs_is_what_its_snippet_prints():
    assert re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1) == printed()


@pytest.mark.parametrize(("row", "stage"), [*enumerate(STAGES, 1)], ids=str)
def test_the_table_of_costs_is_what_pytorch_counts(row, stage):
    side, channels, heads = stage
    width = channels // heads
    qkv = torch.empty(1, side, side, 3, heads, width, device="meta", requires_grad=True)
    fc = torch.empty(9, 3 * heads, device="meta", requires_grad=True)
    kernels = torch.empty(channels, 9, 3, 3, device="meta", requires_grad=True)
    counted = []
    for call in (
        lambda: ops.conv_path(qkv.flatten(3, 4), fc, None, kernels),
        lambda: ops.window_attention(qkv, window=7),
    ):
        with FlopCounterMode(display=False) as forward:
            out = call()
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        counted += [counter.get_total_flops() / 2e6 for counter in (forward, backward)]
    written = [float(number) for number in re.findall(r"([\d.]+) /", printed().splitlines()[row])]
    assert written == pytest.approx(counted, abs=0.051)
