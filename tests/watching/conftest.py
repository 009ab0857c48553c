"""Settings of the tests of other people's models."""

from ..compiling import quickly_compiled_room as quickly_compiled_room
