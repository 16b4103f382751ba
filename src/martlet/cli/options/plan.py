"""`--plan`: what a verb would take, before it is run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from martlet.cli.options.option import option
from martlet.errors import ParameterError

if TYPE_CHECKING:
    from martlet.forecast.price import Price, TrainingPrice

PANEL = "Plan"
PlanOption = Annotated[
    bool,
    option(
        PANEL,
        "Look at the rows, compute for 20 seconds, and print what the run will take, instead of "
        "running it.",
        "--plan",
    ),
]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Whether to plan instead of running, and what tokens cost."""

    plan: PlanOption = False
    price: Annotated[
        str | None,
        option(
            PANEL,
            "With --plan: what a million tokens cost, such as 0.15,0.60.",
            "--price",
            metavar="IN,OUT",
        ),
    ] = None

    def parsed_price(self) -> "Price | None":
        """The price, if one was given.

        Raises:
            ParameterError: If it is not two numbers, or nothing is to be planned.
        """
        from martlet.forecast.price import Price

        return None if self.price is None else Price.parse(_of_a_plan(self.price, self.plan))


@dataclass(frozen=True, kw_only=True)
class TrainPlanOptions:
    """Whether to plan a training instead of running it, and what its tokens cost."""

    plan: PlanOption = False
    price: Annotated[
        str | None,
        option(
            PANEL,
            "With --plan: what a million tokens trained on cost, such as 3.00.",
            "--price",
            metavar="TRAINED",
        ),
    ] = None

    def parsed_price(self) -> "TrainingPrice | None":
        """The price, if one was given.

        Raises:
            ParameterError: If it is not one number, or nothing is to be planned.
        """
        from martlet.forecast.price import TrainingPrice

        return (
            None if self.price is None else TrainingPrice.parse(_of_a_plan(self.price, self.plan))
        )


def _of_a_plan(price: str, is_planned: bool) -> str:
    if not is_planned:
        raise ParameterError("--price belongs to --plan: give both, or neither", param="price")
    return price
