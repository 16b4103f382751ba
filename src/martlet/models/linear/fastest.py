"""The fastest layer that this machine has for weights of few bits."""

from martlet.models.linear.int4 import Int4Linear, can_pack_int4
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear, can_compute
from martlet.models.linear.packed import can_pack
from martlet.models.linear.stored import StoredInt4, StoredInt8


def fastest_int8(stored: StoredInt8) -> IntegerLinear | Int8Linear | None:
    """Computes what a layer of eight bits does; None where only its plain form can."""
    if can_compute(stored):
        return IntegerLinear(stored)
    return Int8Linear(stored) if stored.weight.device.type == "cpu" and can_pack() else None


def fastest_int4(stored: StoredInt4) -> IntegerLinear | Int4Linear | None:
    """The same for four bits, and tokens in bf16."""
    if can_compute(stored):
        return IntegerLinear(stored)
    is_on_cpu = stored.group_scales().device.type == "cpu"
    return Int4Linear(stored) if is_on_cpu and can_pack() and can_pack_int4(stored) else None
