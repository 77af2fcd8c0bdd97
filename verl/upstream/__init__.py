"""The installed verl 0.5, without the overlay: ``verl.upstream.X`` is what ``verl.X`` would be without this fork.

Import through this package only a module that the overlay replaces, and only from the module that replaces it;
importing anything else here would create its classes twice.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from verl import UPSTREAM_FOLDER

__path__ = [str(UPSTREAM_FOLDER)]


def keep_upstream_names(namespace: dict[str, Any]) -> None:
    """Give an overlaid module those names of the module it replaces that it does not define itself.

    Users' recipes import them from there. A name that both modules share stays shared: whoever replaces it in the
    overlaid module, as tests do, replaces it for upstream's functions too.

    Args:
        namespace: the overlaid module's ``globals()``, at its end.
    """
    name = namespace["__name__"]
    if name == "__main__":  # nothing is imported from a module that is run
        return
    for shared, value in vars(import_module(_upstream_name(name))).items():
        if not _is_special(shared):
            namespace.setdefault(shared, value)
    sys.modules[name].__class__ = _OverlaidModule


class _OverlaidModule(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        upstream = sys.modules[_upstream_name(self.__name__)]
        own, theirs = vars(self), vars(upstream)
        if name in own and name in theirs and own[name] is theirs[name] and not _is_special(name):
            setattr(upstream, name, value)
        super().__setattr__(name, value)


def _upstream_name(name: str) -> str:
    return f"verl.upstream.{name.removeprefix('verl.')}"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
