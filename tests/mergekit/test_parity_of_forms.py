"""Every form that a merge file can take, run by mergekit itself and by evomerge, and written back."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.mergekit.read import read_mergekit
from evomerge.mergekit.write import to_mergekit
from helpers.mergekit_files import assert_agree, by_evomerge, by_mergekit

# Not "mergekit" alone, which this folder itself would answer to.
pytest.importorskip("mergekit.config")


# mergekit, its dependencies and the newest Python and transformers warn about each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


FORMS = {
    "values over depth": """
merge_method: task_arithmetic
base_model: {base}
models:
  - model: {a}
    parameters: {{weight: [0, 0.3, 1.0]}}
  - model: {b}
    parameters: {{weight: ["1e-1", 0.5]}}
dtype: float32
""",
    "the form that mergekit writes": """
merge_method: ties
base_model: {base}
modules:
  default:
    parameters: {{weight: [{{filter: mlp, value: 0.2}}], density: 1.0}}
    slices:
    - sources:
      - {{model: {base}, layer_range: [0, 4]}}
      - {{model: {a}, layer_range: [0, 4], parameters: {{weight: [0.9, 0.2, 0.4]}}}}
      - {{model: {b}, layer_range: [0, 4]}}
parameters: {{int8_mask: 1.0, normalize: 0.0, weight: 0.7, embed_slerp: true}}
dtype: float32
""",
    "filters with values over depth": """
merge_method: slerp
base_model: {base}
models: [{{model: {base}}}, {{model: {a}}}]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - filter: lm_head
      value: [0.2, 0.9]
    - value: 0.5
dtype: float32
""",
    "filters that overlap": """
merge_method: ties
base_model: {base}
models:
  - model: {a}
    parameters:
      weight: [{{filter: q_proj, value: 0.9}}, {{filter: self_attn, value: 0.2}}, {{filter: "*", value: 0.4}}]
      density: [{{filter: layers.1, value: 0.3}}, {{value: 0.8}}]
  - model: {b}
    parameters: {{weight: {{filter: mlp, value: 0.1}}}}
parameters: {{weight: 0.6, lambda: [{{filter: norm, value: 0.0}}]}}
dtype: float32
""",
    "slices": """
merge_method: dare_linear
slices:
  - sources:
      - {{model: {base}, layer_range: [0, 1]}}
      - {{model: {a}, layer_range: [0, 1], parameters: {{weight: [0.3, 0.8]}}}}
    base_model: {base}
  - sources:
      - {{model: {a}, layer_range: [1, 4], parameters: {{weight: [1, 0, 0.5]}}}}
      - {{model: {base}, layer_range: [1, 4]}}
    base_model: {base}
    parameters: {{lambda: 0.5}}
dtype: float32
""",
    "a frankenmerge": """
merge_method: passthrough
slices:
  - sources: [{{model: {a}, layer_range: [0, 3]}}]
  - sources: [{{model: {b}, layer_range: [1, 3]}}]
  - sources: [{{model: {a}, layer_range: [2, 4]}}]
dtype: float32
""",
    "a frankenmerge with another base": """
merge_method: passthrough
base_model: {base}
slices:
  - sources: [{{model: {a}, layer_range: [0, 2]}}]
  - sources: [{{model: {b}, layer_range: [3, 4]}}]
dtype: float32
""",
    "one model upon itself, scaled": """
merge_method: passthrough
slices:
  - sources: [{{model: {a}, layer_range: [0, 3]}}]
  - sources:
      - model: {a}
        layer_range: [1, 4]
        parameters:
          scale: [{{filter: o_proj, value: 0.0}}, {{filter: down_proj, value: 0.25}}, {{value: 1.0}}]
dtype: float32
""",
    "layers left out": """
merge_method: passthrough
slices: [{{sources: [{{model: {a}, layer_range: [0, 2]}}]}}, {{sources: [{{model: {a}, layer_range: [3, 4]}}]}}]
dtype: float32
""",
    "other layers of each model": """
merge_method: ties
base_model: {base}
slices:
  - sources:
      - {{model: {base}, layer_range: [0, 2]}}
      - {{model: {a}, layer_range: [1, 3], parameters: {{weight: [0.3, 0.8], density: 0.6}}}}
      - {{model: {b}, layer_range: [0, 2], parameters: {{weight: 0.5}}}}
  - sources:
      - {{model: {b}, layer_range: [1, 4], parameters: {{weight: [1, 0, 0.5]}}}}
      - {{model: {base}, layer_range: [0, 3]}}
      - {{model: {a}, layer_range: [0, 3], parameters: {{weight: 0.4, density: 0.3}}}}
    parameters: {{lambda: 0.5}}
dtype: float32
""",
    "a base with other experts in each slice": """
merge_method: ties
base_model: {base}
slices:
  - sources:
      - {{model: {b}, layer_range: [1, 3], parameters: {{weight: 0.3, density: 0.5}}}}
      - {{model: {base}, layer_range: [0, 2]}}
      - {{model: {a}, layer_range: [1, 3], parameters: {{weight: 0.7, density: [0.3, 0.6]}}}}
  - sources:
      - {{model: {base}, layer_range: [1, 3]}}
      - {{model: {c}, layer_range: [0, 2], parameters: {{weight: 0.7}}}}
parameters: {{lambda: 0.8}}
dtype: float32
""",
    "task vectors from other layers, normalised": """
merge_method: task_arithmetic
base_model: {base}
slices:
  - sources: [{{model: {base}, layer_range: [0, 2]}}, {{model: {a}, layer_range: [1, 3], parameters: {{weight: 0.7}}}}]
  - sources: [{{model: {b}, layer_range: [2, 4], parameters: {{weight: 0.3}}}}, {{model: {base}, layer_range: [1, 3]}}]
parameters: {{normalize: true}}
dtype: float32
""",
    "other models in each slice": """
merge_method: linear
slices:
  - sources:
      - {{model: {a}, layer_range: [0, 2], parameters: {{weight: 0.2}}}}
      - {{model: {b}, layer_range: [2, 4], parameters: {{weight: 0.6}}}}
  - sources:
      - {{model: {b}, layer_range: [0, 2], parameters: {{weight: 0.2}}}}
      - {{model: {c}, layer_range: [1, 3], parameters: {{weight: [0.1, 0.6]}}}}
  - sources: [{{model: {c}, layer_range: [1, 2], parameters: {{weight: 0.6}}}}]
dtype: float32
""",
    "slerp over other layers": """
merge_method: slerp
base_model: {base}
slices:
  - sources: [{{model: {base}, layer_range: [0, 2]}}, {{model: {a}, layer_range: [1, 3]}}]
  - sources: [{{model: {a}, layer_range: [1, 4]}}, {{model: {base}, layer_range: [0, 3]}}]
parameters: {{t: [{{filter: self_attn, value: [0, 0.5, 1]}}, {{value: 0.3}}]}}
dtype: float32
""",
    "linear over other layers": """
merge_method: linear
slices:
  - sources:
      - {{model: {a}, layer_range: [0, 3], parameters: {{weight: 0.3}}}}
      - {{model: {b}, layer_range: [1, 4], parameters: {{weight: [0.2, 0.8]}}}}
dtype: float32
""",
    "rounded to half precision": """
merge_method: linear
models:
  - {{model: {a}, parameters: {{weight: 0.25}}}}
  - {{model: {c}, parameters: {{weight: 0.5}}}}
dtype: float32
out_dtype: bfloat16
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_agrees_with_mergekit(form: str, family: dict[str, Path], tmp_path: Path) -> None:
    text = FORMS[form].format(**family)
    ours, theirs = by_evomerge(text, tmp_path / "ours"), by_mergekit(text, tmp_path / "theirs")
    assert {tensor.dtype for tensor in ours.values()} == {tensor.dtype for tensor in theirs.values()}
    assert_agree(ours, theirs, odd=1 / 500 if "half" in form else 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_agrees_when_mergekit_runs_it(form: str, family: dict[str, Path], tmp_path: Path) -> None:
    text = FORMS[form].format(**family)
    written = to_mergekit(read_mergekit(text))
    assert_agree(by_evomerge(text, tmp_path / "ours"), by_mergekit(written, tmp_path / "theirs"), odd=1 / 500)
