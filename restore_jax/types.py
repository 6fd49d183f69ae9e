"""Names for values that Python's types cannot describe, for all rooms.

Pytrees of arrays have theirs in `restore_jax.splitting.types`.
"""

from typing import Any

JSON = Any
"""What JSON can hold: None, a bool, a number, a string, a list of these, or a dict by names."""
Argument = Any
"""An argument handed on by name: its type is that of whichever function takes it in the end."""
