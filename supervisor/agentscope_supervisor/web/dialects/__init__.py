"""The wire formats, one module for each dialect, and their table by number.

A new dialect is one module here, and one in the worker's `dialects`. Read `native` first.
"""

from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.domain.wire_format import WireFormat
from agentscope_supervisor.web.dialects.native import NATIVE

FORMATS: Final[Mapping[int, WireFormat]] = {each.number: each for each in (NATIVE,)}
"""By the number of the dialect in the Open frame."""
