"""Names of the default models and device, in a module that loads no torch: settings and `--help` need names alone."""

from typing import Final, Literal

DEFAULT_LLM: Final = "smollm2-135m-instruct"
DEFAULT_ENCODER: Final = "all-minilm-l6-v2"
DEFAULT_DEVICE: Final = "cpu"

Precision = Literal["auto", "float32", "bfloat16"]
