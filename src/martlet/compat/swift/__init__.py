"""`python -m martlet.compat.swift sft|infer|export|deploy|app-ui`: ms-swift 2's command."""
