"""A product with a four-bit weight, which is unpacked as it is read.

Shapes: T rows, W = in / 8 words, G groups of inputs.
"""

import triton
import triton.language as tl


@triton.jit
def multiply_int4(
    x,  # [T, in]
    words,  # [out, W] in int32, eight values each, the first one lowest
    scales,  # [out, G]
    zeros,  # [out, G], the values that stand for 0
    out,  # [T, out]
    num_rows,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of the output; a program for each of `(T / NUM_ROWS, out / NUM_OUTPUTS)`."""
    row = tl.cast(tl.program_id(0), tl.int64) * NUM_ROWS + tl.arange(0, NUM_ROWS)
    output = tl.cast(tl.program_id(1), tl.int64) * NUM_OUTPUTS + tl.arange(0, NUM_OUTPUTS)
    is_row, is_output = row < num_rows, output < OUT
    total = tl.zeros([NUM_ROWS, NUM_OUTPUTS], tl.float32)
    for first in range(0, IN, NUM_INPUTS):
        inputs = first + tl.arange(0, NUM_INPUTS)
        is_input = inputs < IN
        rows = tl.load(
            x + row[:, None] * IN + inputs[None, :],
            mask=is_row[:, None] & is_input[None, :],
            other=0.0,
        )
        is_read = is_input[:, None] & is_output[None, :]
        word = tl.load(
            words + output[None, :] * (IN // 8) + inputs[:, None] // 8, mask=is_read, other=0
        )
        group = output[None, :] * (IN // GROUP_SIZE) + inputs[:, None] // GROUP_SIZE
        scale = tl.load(scales + group, mask=is_read, other=0.0).to(tl.float32)
        zero = tl.load(zeros + group, mask=is_read, other=0)
        value = ((word >> (inputs[:, None] % 8 * 4)) & 15) - zero
        weight = (value.to(tl.float32) * scale).to(rows.dtype)
        total += tl.dot(rows, weight, input_precision=PRECISION)
    tl.store(
        out + row[:, None] * OUT + output[None, :],
        total.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_output[None, :],
    )
