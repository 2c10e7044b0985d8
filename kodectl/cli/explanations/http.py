"""What the API refuses."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

HTTP = {
    "body_too_large": Explanation(
        "The body of the request is larger than the route takes.", "Its length.", "Send less.", ""
    ),
    "headers_too_large": Explanation("The headers of the request are too large.", "Their length.", "Send less.", ""),
    "uri_too_long": Explanation("The address of the request is too long.", "Its length.", "Send less.", ""),
    "incomplete_body": Explanation(
        "The body of the request ended early.", "Fewer bytes than announced.", "Send it whole.", ""
    ),
    "malformed_body": Explanation(
        "The body of the request is not the JSON that the route takes.",
        "It does not parse, or misses a field.",
        "Compare it with docs/api.md; the message names the field.",
        "",
    ),
    "malformed_request": Explanation(
        "The request is not HTTP that the API takes.", "Its first line or a header.", "Send HTTP/1.1.", ""
    ),
    "media_type_not_supported": Explanation(
        "The API takes JSON only.",
        "The Content-Type is another.",
        "Say so.",
        "curl -H 'Content-Type: application/json' ...",
    ),
    "transfer_encoding_not_supported": Explanation(
        "The API takes no transfer encoding but chunked.", "The header names another.", "Send it plainly.", ""
    ),
    "request_timeout": Explanation(
        "The request came too slowly.", "Its headers or body took longer than the limit.", "Send it faster.", ""
    ),
    "host_not_allowed": Explanation(
        "The API does not answer to this host name; a web page could have rebound it.",
        "The Host header is neither loopback nor a configured name.",
        "Use 127.0.0.1, or configure the name.",
        "kodectl node run --api-name NAME",
    ),
    "origin_not_allowed": Explanation(
        "A web page of another origin asked.",
        "The Origin header is not the API's own.",
        "Pages of other origins are not served.",
        "",
    ),
    "method_not_allowed": Explanation(
        "The route does not take this method.", "GET, POST or PUT is another.", "See /openapi.json.", ""
    ),
    "route_not_found": Explanation("The API has no such route.", "The path.", "The routes are in docs/api.md.", ""),
}
