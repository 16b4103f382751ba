"""Says on stderr what does the same in Martlet's own words, once each."""

from functools import cache

import typer


@cache
def tell_same(modern: str) -> None:
    """Says a modern command or expression, unless it was said in this process."""
    typer.secho(f"the same: {modern}", fg=typer.colors.CYAN, err=True)
