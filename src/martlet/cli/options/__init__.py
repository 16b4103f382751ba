"""The options that verbs share, each with its environment variable.

Nothing heavy is imported before a group of options becomes what the layers below take.
"""
