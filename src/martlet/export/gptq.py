"""GPTQ: rounding that makes up for its errors in the inputs that come after.

Frantar et al., arXiv:2210.17323, algorithm 1, with scales fixed for each group before it begins.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from martlet.models.linear.rounding import group_scales

_DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it."""
_COLUMNS_AT_ONCE = 128


@torch.inference_mode()
def input_products(
    model: nn.Module,
    modules: Iterable[str],
    rows: Sequence[tuple[int, ...]],
    report: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """Runs a model over rows and adds up what its linear layers see.

    Args:
        model: The model in full precision.
        modules: Names of linear layers.
        rows: Token ids.
        report: Called with the rows that are done and all of them.

    Returns:
        `X.T @ X`, `[in, in]` in fp32, by module. Layers with the same input have one each.
    """
    products: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            known = products.get(name)
            products[name] = x.T @ x if known is None else known.addmm_(x.T, x)

        return add

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in modules]
    try:
        for number, row in enumerate(rows, start=1):
            model(input_ids=torch.tensor([row]), use_cache=False)
            report(number, len(rows))
    finally:
        for hook in hooks:
            hook.remove()
    return products


def round_by_gptq(weight: Tensor, products: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Rounds a weight to four bits so that its outputs on the calibration rows change least.

    Args:
        weight: `[out, in]`.
        products: `X.T @ X` of its inputs, `[in, in]`.
        num_groups: G.

    Returns:
        Whole numbers from -8 to 7 in int8 `[out, in]`, and scales in fp32 `[out, G]`.
    """
    rest = weight.float().clone()
    scales = group_scales(rest, num_groups)
    group_size = weight.shape[1] // num_groups
    inverse = _inverse_factor(products)
    rounded = torch.empty_like(rest)
    for first in range(0, rest.shape[1], _COLUMNS_AT_ONCE):
        last = min(first + _COLUMNS_AT_ONCE, rest.shape[1])
        errors = torch.empty_like(rest[:, first:last])
        for column in range(first, last):
            scale = scales[:, column // group_size]
            rounded[:, column] = (rest[:, column] / scale).round().clamp(-8, 7)
            error = (rest[:, column] - rounded[:, column] * scale) / inverse[column, column]
            rest[:, column:last] -= error[:, None] * inverse[column, column:last]
            errors[:, column - first] = error
        rest[:, last:] -= errors @ inverse[first:last, last:]
    return rounded.to(torch.int8), scales


def _inverse_factor(products: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse, `[in, in]`."""
    hessian = products.double().clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += _DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor
