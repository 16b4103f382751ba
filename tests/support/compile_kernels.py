"""Compiles every kernel to machine code for GPUs that need not be there; run as a program.

The interpreter takes some code that the compiler refuses. This process must not interpret, so it is
one of its own. Prints the shared memory that each kernel takes, in bytes.
"""

from collections.abc import Mapping, Sequence

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from martlet.engine.cuda import kernels
from martlet.models.kernels.int4 import multiply_int4

CAPABILITIES = (80, 90)
"""Ampere and Hopper."""
ATTEND = {
    "NUM_HEADS": 32,
    "GROUP": 4,
    "BLOCK_SIZE": 16,
    "WINDOW": 4096,
    "CHUNK": 8192,
    "HAS_SOFTCAP": True,
    "HAS_SINKS": True,
    "IN_FP8": False,
    "PRECISION": "ieee",
}


def widths(dim: int) -> dict[str, int]:
    width = triton.next_power_of_2(dim)
    return {"KEY_DIM": dim, "VALUE_DIM": dim, "KEY_WIDTH": width, "VALUE_WIDTH": width}


def compile_kernel(
    kernel,
    tensors: Mapping[str, str],
    scalars: Mapping[str, str],
    constants: Mapping[str, object],
    capabilities: Sequence[int] = CAPABILITIES,
) -> None:
    """Compiles one kernel, whose arguments that are not named are whole numbers."""
    types = {**dict.fromkeys(kernel.arg_names, "i32"), **scalars}
    types |= {name: f"*{kind}" for name, kind in tensors.items()}
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(constants))
    for capability in capabilities:
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target)
        assert compiled.asm["cubin"]
        print(kernel.__name__, capability, compiled.metadata.shared)


def compile_attention(
    kind: str,
    dim: int,
    num_rows: int,
    num_keys: int,
    capabilities: Sequence[int] = CAPABILITIES,
    *,
    pool_kind: str | None = None,
) -> None:
    compile_kernel(
        kernels.attend,
        {
            **dict.fromkeys(("query", "sinks", "out"), kind),
            **dict.fromkeys(("key_pool", "value_pool"), pool_kind or kind),
            **dict.fromkeys(("key_scales", "value_scales"), "fp32"),
            **dict.fromkeys(("items", "positions", "block_ids", "first_parts"), "i64"),
            **dict.fromkeys(("part_out", "part_scale"), "fp32"),
        },
        {"scaling": "fp32", "softcap": "fp32"},
        {
            **ATTEND,
            **widths(dim),
            "IN_FP8": pool_kind == "u8",
            "NUM_ROWS": num_rows,
            "NUM_KEYS": num_keys,
        },
        capabilities,
    )


def compile_write(pool_kind: str) -> None:
    compile_kernel(
        kernels.write_slots,
        {
            **dict.fromkeys(("key", "value"), "bf16"),
            **dict.fromkeys(("key_pool", "value_pool"), pool_kind),
            **dict.fromkeys(("key_scales", "value_scales"), "fp32"),
            "slots": "i64",
        },
        {},
        {**widths(80), "IN_FP8": pool_kind == "u8"},
    )


def main() -> None:
    compile_attention("bf16", 128, 16, 64)
    # Ampere knows no E4M3, and has less memory.
    compile_attention("bf16", 128, 64, 64, CAPABILITIES[:1], pool_kind="u8")
    # In fp32 the compiler takes its time, and the widest head takes the most memory.
    compile_attention("fp32", 256, 64, 16, CAPABILITIES[-1:])
    compile_kernel(
        kernels.merge_parts,
        {
            **dict.fromkeys(("part_out", "part_scale"), "fp32"),
            **dict.fromkeys(("first_parts", "num_parts"), "i64"),
            **dict.fromkeys(("sinks", "out"), "bf16"),
        },
        {},
        {"NUM_HEADS": 32, "VALUE_DIM": 80, "VALUE_WIDTH": 128, "HAS_SINKS": True},
    )
    compile_write("bf16")
    compile_write("u8")
    compile_kernel(
        multiply_int4,
        {**dict.fromkeys(("x", "scales", "out"), "bf16"), "words": "i32", "zeros": "i8"},
        {},
        {
            "IN": 4096,
            "OUT": 4096,
            "GROUP_SIZE": 128,
            "PRECISION": "ieee",
            "NUM_ROWS": 64,
            "NUM_OUTPUTS": 32,
            "NUM_INPUTS": 128,
        },
    )


if __name__ == "__main__":
    main()
