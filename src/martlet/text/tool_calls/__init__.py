"""Tool calls, as each family of models writes them: read from replies, and forced by grammars.

`detect` finds a model's family by its chat template; `format` says what every family does.
"""
