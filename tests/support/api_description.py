"""The Engine API's own published description (Swagger 2.0), as a judge of answers.

The description is no part of the project: where it is absent nothing is judged.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

SPEC = Path("/work/shared/specs/engine-api-v1.51.yaml")
# dockerd sends null here, though the description says integer.
NULL_IN_DOCKER = frozenset(("HostConfig.MemorySwappiness", "ExitCode"))


@functools.cache
def specification() -> Any:
    import yaml

    return _nullable(yaml.safe_load(SPEC.read_text(encoding="utf-8")))


def _nullable(node: Any) -> Any:
    """Swagger's `x-nullable` in JSON schema's words. Go's clients take null for any list or object too."""
    if isinstance(node, list):
        return [_nullable(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: _nullable(value) for key, value in node.items()}
    if isinstance(made.get("type"), str) and (made.get("x-nullable") or made["type"] in ("array", "object")):
        made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list):
            made["enum"] = [*made["enum"], None]
    return made


def schema_of(method: str, path: str, status: int) -> Any:
    return specification()["paths"][path][method.lower()]["responses"][status]["schema"]


def validate(value: Any, method: str, path: str, status: int = 200) -> None:
    import jsonschema

    schema = {**schema_of(method, path, status), "definitions": specification()["definitions"]}

    errors = [
        f"{path}: {error.message}"
        for error in jsonschema.Draft4Validator(schema).iter_errors(value)
        # The description requires what it does not describe.
        if "'UnpackedSize' is a required" not in error.message
        and ((path := ".".join(map(str, error.absolute_path))) not in NULL_IN_DOCKER or error.instance is not None)
    ]
    assert not errors, "\n".join(errors)


def template_of(method: str, path: str) -> str | None:
    """The description's name for a path without version, None where it does not know method or path."""
    best: str | None = None
    for template, operations in specification()["paths"].items():
        if method.lower() not in operations:
            continue
        pattern = re.sub(r"\\{\w+\\}", "[^/]+" if "/images/" not in template else ".+", re.escape(template))
        if re.fullmatch(pattern, path) and (best is None or template.count("{") < best.count("{")):
            best = template
    return best


def judge(method: str, path: str, status: int, value: Any) -> None:
    """AssertionError when the description knows this answer and it is not so."""
    template = template_of(method, re.sub(r"^/v[0-9.]+", "", path))
    if template is None:
        return
    responses = specification()["paths"][template][method.lower()]["responses"]
    if "schema" in responses.get(status, {}):
        validate(value, method, template, status)
