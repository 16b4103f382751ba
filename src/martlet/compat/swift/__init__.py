"""`python -m martlet.compat.swift sft|infer|export|deploy|app-ui`: the fifth article's command."""
