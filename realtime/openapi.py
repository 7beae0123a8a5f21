"""The OpenAPI document, made from the types that requests are decoded into."""

from typing import Any

import msgspec

from realtime.orders import OrderRequest, ReviewRequest
from realtime.policy import REASONS, Policies

_UUID = {"type": "string", "format": "uuid", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
_AMOUNT = {"type": "string", "pattern": r"^[0-9]{1,20}(\.[0-9]{1,20})?$", "examples": ["1500.00"]}
_TIME = {"type": "string", "format": "date-time"}
_STATUS = {"enum": ["in_review", "approved", "rejected", "cancelled"]}


def document(policies: Policies) -> dict[str, Any]:
    """OpenAPI 3.1 of the whole interface."""
    _, schemas = msgspec.json.schema_components(
        [OrderRequest, ReviewRequest],
        ref_template="#/components/schemas/{name}",
        schema_hook=lambda kind: {"anyOf": [_AMOUNT, {"type": "number", "minimum": 0}]},
    )
    schemas = _with_json_patterns(schemas)
    schemas["OrderRequest"]["properties"]["product"]["enum"] = policies.products()
    schemas["OrderRequest"]["properties"]["requested_amount"] |= {
        "description": "At most two decimals, within the limits of the product"
    }
    schemas["ReviewRequest"]["properties"]["reason_codes"]["items"]["enum"] = sorted(REASONS)
    schemas |= {
        "Receipt": _object(order_id=_UUID, status={"const": "in_review"}, created_at=_TIME),
        "Order": _object(
            order_id=_UUID,
            partner_id={"type": "string"},
            status=_STATUS,
            product={"type": "string"},
            purpose=_or_null({"type": "string"}),
            currency={"type": "string"},
            requested_amount=_AMOUNT,
            term_months={"type": "integer"},
            approved_amount=_or_null(_AMOUNT),
            interest_rate=_or_null(_AMOUNT | {"description": "Per month"}),
            policy_version=_or_null({"type": "string"}),
            created_at=_TIME,
            decided_at=_or_null(_TIME),
            reasons={"type": "array", "items": _object(code={"type": "string"}, text={"type": "string"})},
        ),
        "Reviewed": _object(
            order_id=_UUID, review_id=_UUID, status=_STATUS, reviewed_at=_TIME, criteria={"type": "object"}
        ),
        "Problem": {
            **_object(
                type={"type": "string"},
                title={"type": "string"},
                status={"type": "integer"},
                detail={"type": "string"},
            ),
            "description": "RFC 9457; `errors` names the field at fault",
        },
    }
    schemas["Order"]["properties"]["evaluations"] = {
        "type": "array",
        "items": {"type": "object"},
        "description": "Only for a reviewer",
    }
    schemas["Problem"]["properties"]["errors"] = {
        "type": "array",
        "items": _object(pointer={"type": "string"}, detail={"type": "string"}),
    }
    order_id = {"name": "order_id", "in": "path", "required": True, "schema": _UUID}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Credit orders",
            "version": "1.0.0",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}],
        "paths": {
            "/v1/credit-orders": {
                "post": {
                    "operationId": "postOrder",
                    "summary": "Ask for credit; order_id is the key of idempotency",
                    "requestBody": _body("OrderRequest"),
                    "responses": _responses(
                        {"202": "Receipt"}, 400, 401, 403, 408, 409, 413, 415, 422, 429, 503
                    ),
                }
            },
            "/v1/credit-orders/{order_id}": {
                "parameters": [order_id],
                "get": {
                    "operationId": "getOrder",
                    "summary": "An order of one's own, with the reasons of a refusal",
                    "responses": _responses({"200": "Order"}, 401, 404, 429, 503),
                },
            },
            "/v1/credit-orders/{order_id}/review": {
                "parameters": [order_id],
                "post": {
                    "operationId": "reviewOrder",
                    "summary": "What a person decided of a referred or refused order; for reviewers",
                    "requestBody": _body("ReviewRequest"),
                    "responses": _responses(
                        {"200": "Reviewed"}, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503
                    ),
                },
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


def _with_json_patterns(schema: Any) -> Any:
    """Python's end of a text is another than that of JSON Schema."""
    if isinstance(schema, dict):
        return {
            name: part.replace(r"\Z", "$") if name == "pattern" else _with_json_patterns(part)
            for name, part in schema.items()
        }
    return [_with_json_patterns(part) for part in schema] if isinstance(schema, list) else schema


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _body(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(good: dict[str, str], *problems: int) -> dict[str, Any]:
    responses: dict[str, Any] = {
        status: {
            "description": name,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        }
        for status, name in good.items()
    }
    for status in problems:
        responses[str(status)] = {
            "description": "A problem",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses
