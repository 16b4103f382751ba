"""ms-swift 2's functions; `martlet.compat.swift_llm` takes the place of `swift.llm`."""

from martlet.compat.model_types import ModelType
from martlet.compat.swift_llm.client import (
    XRequestConfig,
    get_model_list_client,
    inference_client,
)
from martlet.compat.swift_llm.engine import (
    GenerationConfig,
    LoRARequest,
    VllmEngine,
    get_vllm_engine,
)
from martlet.compat.swift_llm.inference import inference_stream_vllm, inference_vllm
from martlet.compat.swift_llm.template import Template, get_default_template_type, get_template

__all__ = [
    "GenerationConfig",
    "LoRARequest",
    "ModelType",
    "Template",
    "VllmEngine",
    "XRequestConfig",
    "get_default_template_type",
    "get_model_list_client",
    "get_template",
    "get_vllm_engine",
    "inference_client",
    "inference_stream_vllm",
    "inference_vllm",
]
