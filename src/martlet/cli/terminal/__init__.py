"""The chat of a terminal: reads questions, shows replies as they are drawn, obeys slash commands.

Owns what a person at a terminal sees and types; what draws a reply is a `Backend` in this process.
"""
