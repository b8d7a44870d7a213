"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import json

import jsonschema
import pytest

from junctor.gateway.app import Gateway
from junctor.gateway.openapi import OPERATIONS, document
from junctor.gateway.openapi_schemas import SCHEMAS
from junctor.gateway.pages import Page

HAND_WRITTEN = [(method, path) for method, path in OPERATIONS if path.startswith("/v1/")]


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}})


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document([(m, p, Page(lambda e, p: None)) for m, p in OPERATIONS]))
    named = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert named <= set(SCHEMAS)


async def test_it_is_served_without_a_key_and_names_every_page(upstream, gateway) -> None:
    served = await gateway(await upstream())
    reply = await served.session.get(served.url + "/openapi.json")
    found = await reply.json()
    assert found["openapi"] == "3.1.0"
    assert found["paths"]["/openapi.json"]["get"]["security"] == []
    pages = Gateway(served.engine).pages
    assert {(m, p) for m, p, _ in pages.listed()} == set(OPERATIONS)
    for method, path, _ in pages.listed():
        name = OPERATIONS[method, path].parameter
        assert method.lower() in found["paths"][path.replace("/*", f"/{{{name}}}")]
    ids = [operation["operationId"] for path in found["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_pages_that_are_added_are_listed_too() -> None:
    async def answer(exchange, principal) -> None:
        """Nothing."""

    found = document([("POST", "/admin/keys/*", Page(answer, admin=True)), ("GET", "/", Page(answer, open=True))])
    assert found["paths"]["/admin/keys/{rest}"]["post"]["parameters"][0]["name"] == "rest"
    assert found["paths"]["/"]["get"]["security"] == []


@pytest.mark.slow
def test_a_tool_for_such_documents_reads_it() -> None:
    schemathesis = pytest.importorskip("schemathesis")
    pages = [(method, path, Page(lambda e, p: None)) for method, path in OPERATIONS]
    schema = schemathesis.openapi.from_dict(document(pages))
    assert sum(1 for _ in schema.get_all_operations()) == len(OPERATIONS)
