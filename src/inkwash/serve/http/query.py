"""What stands behind the ? of a URL is known, or refused: as in a body, a name that nobody reads is a mistake."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest

from inkwash.serve.http.errors import ApiError, unknown_parameter


async def known_query(http: HttpRequest) -> None:
    """Raises ApiError 400 `unknown_parameter` for a name that the route does not read, `invalid_value` for one that stands twice."""
    given = [name for name, _ in http.query_params.multi_items()]
    known = [field.alias for field in http.scope["route"].dependant.query_params]
    for name in given:
        if name not in known:
            raise unknown_parameter(name, known, "in the query")
        if given.count(name) > 1:
            raise ApiError(400, "invalid_value", f"{name} stands twice in the query", name)
