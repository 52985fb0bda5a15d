"""Makes the OpenAPI document, which `make gen` commits and the HTTP interface serves: `python -m tools.openapi`."""
