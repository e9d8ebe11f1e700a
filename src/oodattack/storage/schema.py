"""The published JSON schemas of the documents in a directory of results (JSON Schema, draft 2020-12).

They are the files ``schemas/NAME.schema.json`` beside this one. The ``format`` of a document is the version of its
schema, so there is no second number.
"""

import json
from functools import lru_cache
from importlib import resources
from typing import Any

MAX_MESSAGE = 200  # characters; a message may repeat the whole document


@lru_cache
def schema(name: str) -> dict[str, Any]:
    """A published schema: "run", "audit", "results" (of an audit) or "train".

    >>> schema("run")["properties"]["format"]["const"]
    4
    """
    file = resources.files("oodattack.storage") / "schemas" / f"{name}.schema.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def faults(document: Any, name: str) -> list[tuple[str, str]]:
    """Where a document violates its schema: a JSON path such as ``$.settings.eps[0]``, and what is expected there.

    >>> schema_faults = faults({"format": 4, "rows": 0}, "run")
    >>> [message for path, message in schema_faults if path == "$.rows"]
    ['0 is less than the minimum of 1']
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema(name))
    errors = sorted(validator.iter_errors(document), key=lambda error: error.json_path)
    return [(error.json_path, _short(error.message)) for error in errors]


def _short(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " …"
