"""The package aiohttp, whose `__init__` runs when somebody uses one of its names.

That `__init__` imports the HTTP client, which loads the CA certificates of the system twice: 4 MiB and 100 ms
of CPU, for a supervisor that is a client only with a platform or with traces. The server is in modules of the
package, which `http1` imports by themselves. Remove this when aiohttp imports its client on first use.
"""

import sys
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """The package before its `__init__` has run."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None, "it was made from its spec"
        assert spec.loader is not None, "a package has a loader"
        if name.startswith("__") or find_spec(f"{spec.name}.{name}") is not None:
            raise AttributeError(name)  # a module of the package: the import system then imports it
        self.__class__ = ModuleType  # type: ignore[assignment]  # from now on a package as any other
        spec.loader.exec_module(self)
        return getattr(self, name)


def install() -> None:
    """Make aiohttp such a package, unless it is imported already."""
    if "aiohttp" in sys.modules:
        return
    spec = find_spec("aiohttp")
    assert spec is not None, "it is a dependency of this package"
    package = module_from_spec(spec)
    package.__class__ = _Package
    package.__version__ = version("aiohttp")  # type: ignore[attr-defined]  # modules of the package use it
    sys.modules["aiohttp"] = package
