"""Merging and quantising from names to a certified folder: where the parts meet."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from martlet.errors import NotFoundError, ParameterError
from martlet.export.certificate import (
    MAX_ROW_TOKENS,
    Certificate,
    Limits,
    Subject,
    certify,
    require,
)
from martlet.export.merge import base_dtype, check_base, plan_merge, write_merged
from martlet.export.quantize import Bits, calibrate, plan_quantization, write_quantized
from martlet.export.sentences import BUILT_IN, built_in_rows, token_rows
from martlet.export.weights import draft_of
from martlet.lora.folder import AdapterFolder, open_adapter
from martlet.lora.provenance import TEMPLATE_NAME
from martlet.models.context import context_limit
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.pretrained import load_config
from martlet.models.resolve import resolve
from martlet.text.tokenizer import Tokenizer

MERGE_LIMITS: Mapping[str, Limits] = {
    "fp32": Limits(max_kl=1e-7, min_top1_agreement=0.999),
    "fp16": Limits(max_kl=1e-4, min_top1_agreement=0.98),
    "bf16": Limits(max_kl=5e-3, min_top1_agreement=0.95),
}
"""By the dtype of the base: a merge rounds once to that, and no further."""
QUANTIZE_LIMITS: Mapping[Bits, Limits] = {
    8: Limits(max_kl=0.01, min_top1_agreement=0.95),
    4: Limits(max_kl=0.1, min_top1_agreement=0.85),
}

Rows = Sequence[Mapping[str, object]]
Report = Callable[[str, int, int], None]
"""Takes the stage, and its pieces of work that are done and all of them."""


def merge(
    adapter: str,
    *,
    out: Path,
    model: str | None = None,
    dtype: str | None = None,
    data: tuple[str, Rows] | None = None,
    report: Report,
) -> Certificate:
    """Merges an adapter into its base and certifies the result.

    Args:
        adapter: A PEFT folder.
        out: The new folder.
        model: The base; None takes the one that martlet.json names.
        dtype: bf16, fp16 or fp32; None for the base's own.
        data: A file's name and its rows; None compares on built-in sentences.
        report: Told how far each stage is.

    Raises:
        AdapterError: If the adapter does not fit the base, or was trained on another.
        CertificateError: If the merged model answers otherwise than the adapter on its base.
    """
    folder = open_adapter(adapter)
    base = open_folder(resolve(model)) if model else _base_of(folder)
    provenance = check_base(base, folder)
    with TemporaryDirectory(prefix="martlet-") as place:
        allowed = base_dtype(base)
        if provenance is not None and provenance.base_quantization is not None:
            base = _rounded_base(base, provenance.base_dtype, Path(place) / "base")
        plan = plan_merge(base, folder, out=out, dtype=dtype or allowed)
        rows = _token_rows(base, data, template=folder.path / TEMPLATE_NAME)
        with draft_of(out) as draft:
            write_merged(plan, draft, partial(report, "merging"))
            certificate = certify(
                Subject(name=f"{folder.path} on {base.path}", folder=base, adapter=folder.path),
                Subject(name=str(out), folder=open_folder(draft)),
                rows,
                source=data[0] if data else BUILT_IN,
                limits=MERGE_LIMITS[allowed],
                report=partial(report, "comparing"),
            )
            require(certificate, draft, out)
    return certificate


def quantize(
    model: str,
    *,
    out: Path,
    bits: Bits,
    calibration: Rows | None = None,
    data: tuple[str, Rows] | None = None,
    report: Report,
) -> Certificate:
    """Quantises a model and certifies the result.

    Args:
        model: A folder or an id.
        out: The new folder.
        bits: 8 for W8A8, 4 for W4A16.
        calibration: Rows for GPTQ; None rounds to the nearest.
        data: A file's name and its rows; None compares on built-in sentences.
        report: Told how far each stage is.

    Raises:
        ParameterError: If calibration rows are given with 8 bits.
        CertificateError: If the quantised model answers too differently.
    """
    if calibration is not None and bits == 8:
        raise ParameterError("calibration rows are for GPTQ, with --bits 4; 8 bits need none")
    source = open_folder(resolve(model))
    plan = plan_quantization(source, bits=bits, out=out)
    rows = _token_rows(source, data)
    products = None
    if calibration is not None:
        own_rows = _token_rows(source, ("calibration", calibration))
        products = calibrate(plan, own_rows, partial(report, "calibrating"))
    with draft_of(out) as draft:
        write_quantized(plan, draft, partial(report, "rounding"), products=products)
        certificate = certify(
            Subject(name=model, folder=source),
            Subject(name=str(out), folder=open_folder(draft)),
            rows,
            source=data[0] if data else BUILT_IN,
            limits=QUANTIZE_LIMITS[bits],
            report=partial(report, "comparing"),
        )
        require(certificate, draft, out)
    return certificate


def _base_of(adapter: AdapterFolder) -> ModelFolder:
    from martlet.lora.provenance import read_provenance

    provenance = read_provenance(adapter.path)
    if provenance is None:
        raise ParameterError(
            f"{adapter.path} does not say for certain what it was trained on (its config names "
            f"{adapter.config.base_model}); name the base with --model",
            param="model",
        )
    try:
        return open_folder(resolve(provenance.base))
    except NotFoundError as error:
        raise NotFoundError(
            f"{adapter.path} was trained on {provenance.base}, which is not here: {error}; name "
            "the base with --model"
        ) from error


def _rounded_base(base: ModelFolder, dtype: str, place: Path) -> ModelFolder:
    """The base as QLoRA held it in training: rounded to NF4 and written out again."""
    from martlet.models.nf4 import write_as_nf4

    write_as_nf4(base, place, dtype=getattr(torch, dtype))
    return open_folder(place)


def _token_rows(
    folder: ModelFolder, data: tuple[str, Rows] | None, *, template: Path | None = None
) -> list[tuple[int, ...]]:
    own = template.read_text("utf-8") if template is not None and template.is_file() else None
    tokenizer = Tokenizer.load(folder.path, chat_template=own)
    limit = min(MAX_ROW_TOKENS, context_limit(load_config(folder, trust_remote_code=False)))
    return token_rows(built_in_rows() if data is None else data[1], tokenizer, max_tokens=limit)
