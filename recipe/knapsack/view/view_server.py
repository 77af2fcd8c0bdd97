"""The viewer as a local web server: read only, for this machine, and nothing is served from disk by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from recipe.knapsack.view.index_updates import IndexUpdates
from recipe.knapsack.view.prompt_export import prompts_as_csv, write_rows
from recipe.knapsack.view.prompt_table import TableQuery
from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import ViewError
from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.view_pages import PAGES, POLICY, NotFound, Pages

__all__ = ["HOST", "ViewApplication", "page_address", "serve"]

HOST = "127.0.0.1"
SECONDS_TO_WAIT = 0.5
"""So long a page waits for the history, rather than to show a part of it."""
_HEADERS = {
    # frame-ancestors counts in a header only.
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PATHS = {"overview": "/", "prompts": "/prompts", "prompt": "/prompt", "export": "/export"}


class LocalRequest(Request):
    """A request whose Host header names this machine: a page of another name that resolves to it gets nothing."""

    trusted_hosts = ["127.0.0.1", "localhost", "[::1]"]


def page_address(page: str, /, **arguments: object) -> str:
    """The address of a page on the server.

    >>> page_address("prompt", id="ab", run=1)
    '/prompt?id=ab&run=1'
    """
    query = urlencode({name: value for name, value in arguments.items() if value is not None})
    return _PATHS[page] + (f"?{query}" if query else "")


class ViewApplication:
    """The WSGI application.

    Args:
        index: what it shows.
        texts: the prompts' texts, for exports.
        updates: what brings the index up to date; None if nothing does.
    """

    def __init__(self, index: RunIndex, texts: PromptTexts, updates: IndexUpdates | None = None) -> None:
        self._index = index
        self._texts = texts
        self._updates = updates
        self._pages = Pages(index, page_address, updates=updates)

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        response = self._respond(LocalRequest(environ))
        response.headers.update(_HEADERS)
        return response(environ, start_response)

    def _respond(self, request: LocalRequest) -> Response:
        try:
            request.host  # noqa: B018  raises for a host that is not trusted
            if request.method not in ("GET", "HEAD"):
                return self._error(405, "Not allowed", "The viewer only shows; it takes no changes.")
            return self._answer(request)
        except SecurityError:
            return Response("The Host header does not name this machine.", 421, mimetype="text/plain")
        except NotFound as error:
            return self._error(404, "Not found", str(error))
        except (ViewError, UnicodeError) as error:
            return self._error(400, "Not accepted", str(error))
        except HTTPException as error:
            return self._error(error.code or 400, error.name, error.description or "")

    def _answer(self, request: LocalRequest) -> Response:
        if self._updates is not None:
            self._updates.history_is_read.wait(SECONDS_TO_WAIT)
        page = {path: name for name, path in _PATHS.items()}.get(request.path)
        if page in PAGES:
            return Response(self._pages.render(page, request.args), mimetype="text/html")
        if page == "export":
            return self._export(request)
        return self._error(404, "Not found", "There is no such page.")

    def _error(self, status: int, title: str, message: str) -> Response:
        return Response(self._pages.message(title, message), status, mimetype="text/html")

    def _export(self, request: LocalRequest) -> Response:
        query = TableQuery.parse(request.args, len(self._index.runs))
        form = request.args.get("format", "csv")
        rows = request.args.get("rows", "listed")
        if rows not in ("listed", "others") or (form == "csv" and rows == "others"):
            raise ViewError(f"rows={rows} is not accepted: expected listed, or others with format=parquet")
        others = rows == "others"
        name = f"{query.name}{'-others' if others else ''}.{form}"
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        with self._index.connect() as database:
            if form == "csv":
                return Response(prompts_as_csv(database, query), mimetype="text/csv", headers=disposition)
            if form != "parquet":
                raise ViewError(f"format={form} is not known: expected csv or parquet")
            with TemporaryDirectory(prefix="knapsack-export-") as folder:
                path = Path(folder) / "prompts.parquet"
                write_rows(database, query, self._index.runs[query.run], self._texts, path, others=others)
                content = path.read_bytes()
        return Response(content, mimetype="application/vnd.apache.parquet", headers=disposition)


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a request is no news."""


def serve(application: ViewApplication, port: int) -> BaseWSGIServer:
    """A server for the application, bound to this machine alone; port 0 = any that is free.

    Raises:
        ViewError: the port is taken.
    """
    try:
        return make_server(HOST, port, application, threaded=True, request_handler=_QuietHandler)
    except (OSError, SystemExit) as error:
        raise ViewError(f"--port {port} cannot be used ({error}): give another one, or 0 for any") from error
