"""4- and 8-bit weights of the frozen LLM, through bitsandbytes.

PEFT's prepare_model_for_kbit_training is not used. It would convert norms, embeddings and the
output head to float32, which an LLM that is not quantized does without.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from transformers import BitsAndBytesConfig

Quantization: TypeAlias = Literal["nf4", "int8"]


def loading_options(
    quantization: Quantization, dtype: torch.dtype, skipped: Sequence[str]
) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs to quantize linear layers.

    Args:
        quantization: ``nf4`` has 4 bits and quantized scales (QLoRA, arXiv 2305.14314), ``int8`` 8
            bits (LLM.int8(), arXiv 2208.07339).
        dtype: of the computation in 4-bit layers.
        skipped: names of modules whose layers stay as they are.

    Raises:
        ImportError: bitsandbytes is missing.
        OSError: it cannot be loaded.
        RuntimeError: it does not run on this machine's GPU.
    """
    from bitsandbytes import cextension

    if torch.cuda.is_available() and not cextension.lib.compiled_with_cuda:
        raise RuntimeError(f"it has no kernels for CUDA {torch.version.cuda}")
    config = BitsAndBytesConfig(
        load_in_4bit=quantization == "nf4",
        load_in_8bit=quantization == "int8",
        llm_int8_skip_modules=list(skipped),
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )
    # On the CPU, since the trainer moves the model to the device of each process.
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def mark_quantized(llm: nn.Module, quantization: Quantization) -> None:
    """Let PEFT know that the LLM is quantized; transformers marks only the model around it."""
    setattr(llm, "is_loaded_in_4bit" if quantization == "nf4" else "is_loaded_in_8bit", True)


def move_scales(llm: nn.Module) -> None:
    """Move the scales of 8-bit layers to the device of their weights.

    bitsandbytes itself does so only if ``to`` is called on the layer, not on a module around it.
    """
    from bitsandbytes.nn import Linear8bitLt

    for layer in llm.modules():
        if isinstance(layer, Linear8bitLt):
            for holder in (layer.weight, layer.state):  # the state's after the first forward pass
                if getattr(holder, "SCB", None) is not None:
                    holder.CB, holder.SCB = layer.weight.data, holder.SCB.to(layer.weight.device)
