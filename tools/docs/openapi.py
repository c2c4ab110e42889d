"""openapi.json, in the documentation and in the package: the HTTP API as OpenAPI 3.1. Pure."""

import json
from typing import Any

from agentscope_supervisor import __version__
from agentscope_supervisor.domain.errors import MEANING, RETRY_LATER, STATUS, ErrorCode
from tools.docs.http_operations import OPERATIONS, SCHEMAS
from tools.docs.http_shapes import JSON, Answer, Operation, Parameter


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        for path in (operation.path, *operation.also):
            paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agentscope-supervisor",
            "version": __version__,
            "description": "The HTTP API of a running instance.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the instance, if it has one.",
                }
            },
        },
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}{path.translate(_NO_SIGNS)}",
        "summary": operation.summary,
        "description": operation.text,
        "responses": _responses(operation),
    }
    if operation.is_open:
        found["security"] = []
    if operation.parameters:
        found["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.body:
        content = {JSON: {"schema": {"$ref": f"#/components/schemas/{operation.body}"}}}
        found["requestBody"] = {"required": True, "content": content}
    return found


_NO_SIGNS = str.maketrans({"/": "_", "{": None, "}": None})


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.text,
        "required": parameter.place == "path",
        "schema": dict(parameter.schema),
    }


def errors_of(operation: Operation) -> list[ErrorCode]:
    """The codes that an operation can answer with, ordered by status."""
    refused = {ErrorCode.UNAUTHORIZED, ErrorCode.FORBIDDEN}
    codes = {*operation.errors} | (set() if operation.is_open else refused)
    return sorted(codes, key=lambda code: (STATUS[code], list(ErrorCode).index(code)))


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for answer in operation.answers:
        _add(responses, answer)
    for code in errors_of(operation):
        text = f"{code.value}: {MEANING[code]}"
        response = responses.setdefault(str(STATUS[code]), {"description": "", "content": {}})
        response["description"] = f"{response['description']}\n{text}".strip()
        response["content"] = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        if code in RETRY_LATER:
            seconds = {"type": "integer", "minimum": 1, "maximum": 5}
            response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": seconds}}
    return responses


def _add(responses: dict[str, Any], answer: Answer) -> None:
    response = responses.setdefault(str(answer.status), {"description": ""})
    response["description"] = f"{response['description']}\n{answer.text}".strip()
    if answer.schema:
        schema = {"$ref": f"#/components/schemas/{answer.schema}"}
        response.setdefault("content", {})[answer.kind] = {"schema": schema}
    elif answer.status != 204:
        response.setdefault("content", {})[answer.kind] = {"schema": {"type": "string"}}


def packaged() -> str:
    """The file in the package, without spaces. An instance returns the routes in it that it serves."""
    return json.dumps(document(), separators=(",", ":"), ensure_ascii=False) + "\n"


def text() -> str:
    """The file in the documentation."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"
