"""What goes in and out of the gateway's APIs, as JSON Schema. Written by hand: it says what is checked, no more and no less.

Fields that are not named here travel along untouched.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A schema of this document."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object; further fields may be there."""
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def maybe(schema: Schema) -> Schema:
    """The same, or null for "not said"."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(items: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **more}


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


def within(least: float, most: float) -> Schema:
    """A number between two others."""
    return {"type": "number", "minimum": least, "maximum": most}


TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TOKENS: Schema = {"type": "integer", "minimum": 1}
ANY_OTHER_PART: Schema = {**obj(("type",), type=TEXT), "not": obj(("type",), type={"const": "text"})}

CHAT: dict[str, Schema] = {
    "ContentPart": {"anyOf": [obj(("type", "text"), type={"const": "text"}, text=TEXT), ANY_OTHER_PART]},
    "Content": {"anyOf": [TEXT, listed(ref("ContentPart"))]},
    "ChatMessage": {
        "anyOf": [
            obj(
                ("role", "content"),
                role=one_of("system", "developer", "user", "tool", "function"),
                content=ref("Content"),
            ),
            obj(("role",), role={"const": "assistant"}, content=maybe(ref("Content"))),
        ]
    },
    "ChatRequest": obj(
        ("model", "messages"),
        model=NAME,
        messages=listed(ref("ChatMessage"), minItems=1),
        stream=maybe(FLAG),
        stream_options=maybe(OBJECT),
        metadata=maybe(OBJECT),
        max_tokens=maybe(TOKENS),
        max_completion_tokens=maybe(TOKENS),
        n=maybe({"type": "integer", "minimum": 1, "maximum": 128}),
        temperature=maybe(within(0, 2)),
        top_p=maybe(within(0, 1)),
        frequency_penalty=maybe(within(-2, 2)),
        presence_penalty=maybe(within(-2, 2)),
        tools=maybe(listed(OBJECT)),
        functions=maybe(listed(OBJECT)),
        response_format=maybe(obj(("type",), type=TEXT)),
        reasoning_effort=maybe(NAME),
        modalities=maybe(listed(TEXT)),
        web_search_options=maybe(OBJECT),
    ),
    "ChatCompletion": obj(
        ("choices",),
        id=TEXT,
        object={"const": "chat.completion"},
        model=TEXT,
        choices=listed(obj(("message",), index=COUNT, message=OBJECT, finish_reason=maybe(TEXT))),
        usage=maybe(OBJECT),
    ),
    "ChatCompletionChunk": obj(
        object={"const": "chat.completion.chunk"}, choices=listed(obj(delta=OBJECT, finish_reason=maybe(TEXT)))
    ),
    "Error": obj(
        ("error",),
        error=obj(
            ("message",),
            message=TEXT,
            type=maybe(TEXT),
            param=maybe(TEXT),
            code={"type": ["string", "integer", "null"]},
            refusals={"type": "object", "additionalProperties": TEXT},
        ),
    ),
}

_MARK = maybe(obj(type=TEXT))
_SOURCE: Schema = {
    "anyOf": [
        obj(("type", "media_type", "data"), type={"const": "base64"}, media_type=TEXT, data=TEXT),
        obj(("type", "url"), type={"const": "url"}, url=TEXT),
    ]
}
_TEXT_SOURCE = obj(("type", "data"), type={"const": "text"}, media_type=TEXT, data=TEXT)


def _block(kind: str, *required: str, **properties: Schema) -> Schema:
    return obj(("type", *required), type={"const": kind}, cache_control=_MARK, **properties)


MESSAGES: dict[str, Schema] = {
    "TextBlock": _block("text", "text", text=TEXT),
    "ImageBlock": _block("image", "source", source=_SOURCE),
    "DocumentBlock": _block(
        "document", "source", source={"anyOf": [*_SOURCE["anyOf"], _TEXT_SOURCE]}, title=maybe(TEXT), context=maybe(TEXT)
    ),
    "ToolUseBlock": _block("tool_use", "id", "name", "input", id=TEXT, name=TEXT, input=OBJECT),
    "ToolResultBlock": _block(
        "tool_result",
        "tool_use_id",
        tool_use_id=TEXT,
        is_error=maybe(FLAG),
        content=maybe({"anyOf": [TEXT, listed({"anyOf": [ref("TextBlock"), ref("ImageBlock"), ref("DocumentBlock")]})]}),
    ),
    "ThinkingBlock": {
        "anyOf": [
            obj(("type", "thinking"), type={"const": "thinking"}, thinking=TEXT, signature=maybe(TEXT)),
            obj(("type", "data"), type={"const": "redacted_thinking"}, data=TEXT),
        ]
    },
    "Turn": {
        "anyOf": [
            obj(
                ("role", "content"),
                role={"const": "user"},
                content={
                    "anyOf": [
                        TEXT,
                        listed({"anyOf": [ref(f"{kind}Block") for kind in ("Text", "Image", "Document", "ToolResult")]}),
                    ]
                },
            ),
            obj(
                ("role", "content"),
                role={"const": "assistant"},
                content={"anyOf": [TEXT, listed({"anyOf": [ref(f"{kind}Block") for kind in ("Text", "ToolUse", "Thinking")]})]},
            ),
            obj(
                ("role", "content"),
                role={"const": "system"},
                content={"anyOf": [TEXT, listed(ref("TextBlock"))]},
            ),
        ]
    },
    "MessagesTool": obj(
        ("name", "input_schema"), name=TEXT, type=maybe({"const": "custom"}), description=maybe(TEXT), input_schema=OBJECT
    ),
    "CountRequest": obj(
        ("model", "messages"),
        model=NAME,
        messages=listed(ref("Turn"), minItems=1),
        system=maybe({"anyOf": [TEXT, listed(ref("TextBlock"))]}),
        tools=maybe(listed(ref("MessagesTool"))),
        tool_choice=maybe(
            {
                "anyOf": [
                    obj(("type",), type=one_of("auto", "any", "none"), disable_parallel_tool_use=maybe(FLAG)),
                    obj(("type", "name"), type={"const": "tool"}, name=TEXT, disable_parallel_tool_use=maybe(FLAG)),
                ]
            }
        ),
        thinking=maybe(
            {
                "anyOf": [
                    obj(("type", "budget_tokens"), type={"const": "enabled"}, budget_tokens=TOKENS),
                    obj(("type",), type=one_of("disabled", "adaptive", "between_tools")),
                ]
            }
        ),
    ),
    "MessagesRequest": {
        "allOf": [
            ref("CountRequest"),
            obj(
                ("max_tokens",),
                max_tokens=TOKENS,
                stream=maybe(FLAG),
                stop_sequences=maybe(listed(TEXT)),
                temperature=maybe(within(0, 2)),
                top_p=maybe(within(0, 1)),
                metadata=maybe(obj(user_id=maybe(TEXT))),
            ),
        ]
    },
    "Message": obj(
        ("id", "type", "role", "model", "content", "stop_reason", "usage"),
        id=TEXT,
        type={"const": "message"},
        role={"const": "assistant"},
        model=TEXT,
        content=listed(obj(("type",), type=one_of("text", "tool_use", "thinking", "redacted_thinking"))),
        stop_reason=one_of("end_turn", "max_tokens", "tool_use", "stop_sequence", "refusal"),
        stop_sequence=maybe(TEXT),
        usage=obj(
            ("input_tokens", "output_tokens"),
            input_tokens=COUNT,
            output_tokens=COUNT,
            cache_read_input_tokens=COUNT,
            cache_creation_input_tokens=COUNT,
        ),
    ),
    "CountedTokens": obj(("input_tokens", "estimated"), input_tokens=COUNT, estimated={"const": True}),
    "MessagesError": obj(
        ("type", "error"),
        type={"const": "error"},
        error=obj(
            ("type", "message"),
            type=one_of(
                "invalid_request_error",
                "authentication_error",
                "billing_error",
                "permission_error",
                "not_found_error",
                "request_too_large",
                "rate_limit_error",
                "api_error",
                "overloaded_error",
                "timeout_error",
            ),
            message=TEXT,
        ),
    ),
}

_INPUT_PART: Schema = {
    "anyOf": [
        obj(("type", "text"), type=one_of("input_text", "output_text"), text=TEXT),
        obj(("type", "refusal"), type={"const": "refusal"}, refusal=TEXT),
        obj(("type", "image_url"), type={"const": "input_image"}, image_url=TEXT, detail=maybe(TEXT), file_id={"type": "null"}),
        obj(
            ("type", "file_data"),
            type={"const": "input_file"},
            file_data=TEXT,
            filename=maybe(TEXT),
            file_url={"type": "null"},
            file_id={"type": "null"},
        ),
        obj(("type", "input_audio"), type={"const": "input_audio"}, input_audio=OBJECT),
    ]
}
_PARTS_OR_TEXT: Schema = {"anyOf": [TEXT, listed(_INPUT_PART)]}
RESPONSES: dict[str, Schema] = {
    "InputItem": {
        "anyOf": [
            obj(
                ("role", "content"),
                type={"const": "message"},
                role=one_of("user", "assistant", "system", "developer"),
                content=_PARTS_OR_TEXT,
            ),
            obj(
                ("type", "call_id", "name", "arguments"),
                type={"const": "function_call"},
                call_id=TEXT,
                name=TEXT,
                arguments=TEXT,
            ),
            obj(("type", "call_id", "output"), type={"const": "function_call_output"}, call_id=TEXT, output=_PARTS_OR_TEXT),
            obj(
                ("type",),
                type={"const": "reasoning"},
                summary=maybe(listed(obj(("text",), text=TEXT))),
                content=maybe(listed(obj(("text",), text=TEXT))),
                encrypted_content={"type": "null"},
            ),
        ]
    },
    "ResponsesRequest": obj(
        ("model", "input"),
        model=NAME,
        input={"anyOf": [TEXT, listed(ref("InputItem"), minItems=1)]},
        instructions=maybe(TEXT),
        previous_response_id=maybe(TEXT),
        store=maybe(FLAG),
        stream=maybe(FLAG),
        max_output_tokens=maybe(TOKENS),
        temperature=maybe(within(0, 2)),
        top_p=maybe(within(0, 1)),
        top_logprobs=maybe({"type": "integer", "minimum": 0, "maximum": 20}),
        metadata=maybe(OBJECT),
        tools=maybe(listed(obj(("type", "name"), type={"const": "function"}, name=TEXT, parameters=maybe(OBJECT)))),
        tool_choice=maybe(
            {
                "anyOf": [
                    one_of("auto", "none", "required"),
                    obj(("type", "name"), type={"const": "function"}, name=TEXT),
                ]
            }
        ),
        reasoning=maybe(obj(effort=maybe(NAME))),
        text=maybe(
            obj(
                format=maybe(
                    {
                        "anyOf": [
                            obj(("type",), type=one_of("text", "json_object")),
                            obj(("type", "schema"), type={"const": "json_schema"}, schema=OBJECT),
                        ]
                    }
                )
            )
        ),
        truncation=maybe({"const": "disabled"}),
        background=maybe({"const": False}),
    ),
    "Response": obj(
        ("id", "object", "status", "model", "output"),
        id=TEXT,
        object={"const": "response"},
        created_at=COUNT,
        status=one_of("completed", "incomplete", "failed", "in_progress"),
        model=TEXT,
        output=listed(obj(("type", "id"), type=one_of("message", "function_call", "reasoning"), id=TEXT)),
        usage=maybe(OBJECT),
        error=maybe(OBJECT),
        incomplete_details=maybe(OBJECT),
        previous_response_id=maybe(TEXT),
        store=FLAG,
    ),
    "ResponseDeleted": obj(("id", "object", "deleted"), id=TEXT, object={"const": "response"}, deleted={"const": True}),
}

_NUMBERS = listed(COUNT, minItems=1)
PLAIN: dict[str, Schema] = {
    "EmbeddingsRequest": obj(
        ("model", "input"),
        model=NAME,
        input={
            "anyOf": [
                NAME,
                _NUMBERS,
                listed({"anyOf": [NAME, _NUMBERS]}, minItems=1, maxItems=2048),
            ]
        },
        dimensions=maybe({"type": "integer", "minimum": 1}),
        encoding_format=maybe(one_of("float", "base64")),
    ),
    "Embeddings": obj(("data",), object={"const": "list"}, data=listed(OBJECT), usage=OBJECT),
    "ModerationsRequest": obj(
        ("model", "input"),
        model=NAME,
        input={
            "anyOf": [
                NAME,
                listed(
                    {
                        "anyOf": [
                            TEXT,
                            obj(("type", "text"), type={"const": "text"}, text=TEXT),
                            obj(("type", "image_url"), type={"const": "image_url"}, image_url=OBJECT),
                        ]
                    },
                    minItems=1,
                    maxItems=2048,
                ),
            ]
        },
    ),
    "Moderations": obj(("results",), results=listed(OBJECT)),
    "Feedback": {
        **obj(
            ("decision_id",),
            decision_id=NAME,
            comment=maybe(TEXT),
            quality=maybe(within(0, 1)),
            **{
                name: maybe({"type": "number", "minimum": 0})
                for name in ("cost_usd", "latency_s", "energy_j", "input_tokens", "output_tokens")
            },
        ),
        "additionalProperties": False,
    },
    "FeedbackTaken": obj(("object", "decision_id"), object={"const": "feedback"}, decision_id=TEXT),
    "Models": obj(("object", "data"), object={"const": "list"}, data=listed(obj(("id",), id=TEXT, owned_by=TEXT))),
    "Health": obj(("status",), status=TEXT),
    "Decision": OBJECT,
}

SCHEMAS: dict[str, Schema] = CHAT | MESSAGES | RESPONSES | PLAIN
