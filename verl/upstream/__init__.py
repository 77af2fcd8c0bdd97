"""The installed verl 0.5, without the overlay: ``verl.upstream.X`` is what ``verl.X`` would be without this fork.

Import through this package only a module that the overlay replaces, and only from the module that replaces it;
importing anything else here would create its classes twice.
"""

from verl import UPSTREAM_FOLDER

__path__ = [str(UPSTREAM_FOLDER)]
