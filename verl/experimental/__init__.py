"""Overlay of ``verl.experimental``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
