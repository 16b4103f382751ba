"""The commands, scripts and functions of other tools, run by Martlet's own.

Each tells once, on stderr, the modern command that does the same. Nothing below knows of this.
"""
