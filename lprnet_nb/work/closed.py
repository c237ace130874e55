"""What the embedded cluster's dashboard answers to those who do not know where it is: nothing.

dask serves it below a prefix that is made for the cluster alone, and tells that prefix to whoever
asks for ``/``. This module is named first among the scheduler's routes.
"""

from __future__ import annotations

from tornado.web import HTTPError, RequestHandler


class _Closed(RequestHandler):
    def prepare(self) -> None:
        raise HTTPError(404)


# dask puts the prefix before the pattern, that is before its first alternative.
routes: list[tuple[str, type[RequestHandler], dict[str, object]]] = [(r"closed|/$", _Closed, {})]
