"""Settings of every test of this room."""

from ..compiling import quickly_compiled_room as quickly_compiled_room
