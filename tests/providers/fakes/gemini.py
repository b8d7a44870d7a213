"""A fake of Google's Gemini API: the checks of the public documentation, deterministic answers.

It says what it was told, calls the functions that it is told to call or whose names it reads, signs its thoughts and wants the
signature back with the call that it belongs to.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from .anthropic import made_up as made_up_json
from .anthropic import sign
from .serving import Answer, FakeServer, Refused, Seen, demand

KEY = "goog-test-key"
BAD = "INVALID_ARGUMENT"
FIELDS = {
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent", "labels",
}  # fmt: skip
CONFIG = {
    "temperature", "topP", "topK", "seed", "frequencyPenalty", "presencePenalty", "maxOutputTokens", "stopSequences",
    "responseMimeType", "responseSchema", "responseJsonSchema", "thinkingConfig", "candidateCount", "mediaResolution",
    "responseModalities",
}  # fmt: skip
SCHEMA = {
    "type", "title", "description", "format", "default", "example", "minItems", "maxItems", "minProperties", "maxProperties",
    "minLength", "maxLength", "pattern", "minimum", "maximum", "propertyOrdering", "required", "nullable", "enum", "properties",
    "items", "anyOf",
}  # fmt: skip
TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT"}
PARTS = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
METHODS = ("generateContent", "streamGenerateContent", "batchEmbedContents")


class FakeGemini(FakeServer):
    """`POST /models/NAME:generateContent`, `:streamGenerateContent?alt=sse`, `:batchEmbedContents`."""

    def check(self, seen: Seen) -> None:
        demand("key" not in seen.query, BAD, "a key in the URL")
        key = seen.headers.get("x-goog-api-key")
        demand(key, "PERMISSION_DENIED", "Method doesn't allow unregistered callers", 403)
        demand(key == KEY, "API_KEY", f"API key not valid: {key}")
        found = re.fullmatch(r"/models/([\w.-]+):(\w+)", seen.path)
        demand(found and found[2] in METHODS and seen.method == "POST", "NOT_FOUND", "Requested entity was not found.", 404)
        demand(found[1] != "no-such-model", "NOT_FOUND", f"models/{found[1]} is not found for API version v1beta", 404)
        demand((seen.query == "alt=sse") == found[2].startswith("stream"), BAD, "alt=sse where it does not belong")
        try:
            body = seen.json
        except ValueError:
            raise Refused(400, BAD, "Invalid JSON payload received.") from None
        if found[2] == "batchEmbedContents":
            check_embedding(body, found[1])
        else:
            check_body(body)

    def refusal(self, error: Refused) -> Answer:
        if error.kind == "API_KEY":
            return failure(
                400, BAD, error.message, [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
            )
        return failure(error.status, error.kind, error.message)

    def answer(self, seen: Seen) -> Answer:
        body = seen.json
        if seen.path.endswith("batchEmbedContents"):
            texts = [r["content"]["parts"][0]["text"] for r in body["requests"]]
            return Answer(body=json.dumps({"embeddings": [{"values": [0.5, float(len(t))]} for t in texts]}).encode())
        parts, reason = reply_to(body)
        return said(parts, reason, usage=usage_for(body, parts), stream="stream" in seen.path)


def failure(status: int, kind: str, message: str, details: Any = None) -> Answer:
    """An error answer."""
    error = {"code": status, "message": message, "status": kind}
    if details:
        error["details"] = details
    return Answer(status, json.dumps({"error": error}).encode())


def check_embedding(body: Any, model: str) -> None:
    for request in body["requests"]:
        demand(request.get("model") == f"models/{model}", BAD, "requests.model: does not match")
        demand(request["content"]["parts"][0].get("text"), BAD, "empty Part")


def check_body(body: Any) -> None:
    """The body of a call."""
    demand(isinstance(body, dict), BAD, "Invalid JSON payload received.")
    for name in body:
        demand(name in FIELDS, BAD, f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    demand(body.get("contents"), BAD, "* GenerateContentRequest.contents: contents is not specified")
    check_config(body.get("generationConfig", {}))
    check_tools(body)
    for part in body.get("systemInstruction", {}).get("parts", []):
        demand(set(part) == {"text"}, BAD, "system_instruction: only text")
    waiting: list[str] = []
    for place, content in enumerate(body["contents"]):
        demand(content.get("role") in ("user", "model"), BAD, "Please use a valid role: user, model.")
        demand(
            content.get("parts"), BAD, f"* GenerateContentRequest.contents[{place}].parts: contents.parts must not be empty."
        )
        for part in content["parts"]:
            check_part(f"contents[{place}].parts", part, content["role"])
        waiting = check_pairs(content["parts"], waiting)
    demand(not waiting, BAD, "Please ensure that function call turn is followed by its responses.")


def check_pairs(parts: list[dict[str, Any]], waiting: list[str]) -> list[str]:
    """Every function call of the turn before has its response in this one."""
    answered = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
    same = "Please ensure that the number of function response parts is equal to the number of function call parts"
    demand(sorted(answered) == sorted(waiting), BAD, same)
    calls = [part for part in parts if "functionCall" in part]
    for part in calls[:1]:
        known = part.get("thoughtSignature")
        right = known is None or known == sign(part["functionCall"]["name"])
        demand(right, BAD, "Thought signature is not valid")
    return [part["functionCall"]["name"] for part in calls]


def check_part(where: str, part: Any, role: str) -> None:
    kinds = [kind for kind in PARTS if kind in part]
    demand(len(kinds) == 1, BAD, f"{where}: required oneof field 'data' must have one initialized field")
    extra = set(part) - {*kinds, "thoughtSignature"}
    demand(not extra, BAD, f'Unknown name "{extra}" at {where}: Cannot find field.')
    if kinds == ["functionCall"]:
        demand(role == "model", BAD, "function call in a turn of the user")
        demand(isinstance(part["functionCall"].get("args"), dict), BAD, f"{where}: args is not a Struct")
    elif kinds == ["functionResponse"]:
        response = part["functionResponse"]
        demand(role == "user" and response.get("name"), BAD, f"{where}.function_response.name: Name cannot be empty.")
        demand(isinstance(response.get("response"), dict), BAD, f"{where}.function_response.response: is not a Struct")
    elif kinds == ["inlineData"]:
        demand(set(part["inlineData"]) == {"mimeType", "data"}, BAD, f"{where}.inline_data")
        demand("/" in part["inlineData"]["mimeType"], BAD, f"{where}.inline_data: Unsupported MIME type")
        base64.b64decode(part["inlineData"]["data"], validate=True)
    elif kinds == ["fileData"]:
        demand(part["fileData"].get("fileUri") and "/" in part["fileData"].get("mimeType", ""), BAD, f"{where}.file_data")


def check_config(config: dict[str, Any]) -> None:
    for name in config:
        demand(name in CONFIG, BAD, f"Unknown name \"{name}\" at 'generation_config': Cannot find field.")
    demand(0 <= config.get("temperature", 1) <= 2, BAD, "temperature must be in the range [0.0, 2.0]")
    demand(len(config.get("stopSequences", [])) <= 5, BAD, "at most 5 stop sequences")
    demand(config.get("maxOutputTokens", 1) >= 1, BAD, "max_output_tokens must be positive.")
    thinking = config.get("thinkingConfig", {})
    demand(set(thinking) <= {"thinkingBudget", "thinkingLevel", "includeThoughts"}, BAD, "thinking_config: Cannot find field.")
    demand(thinking.get("thinkingLevel", "low") in ("minimal", "low", "medium", "high"), BAD, "thinking_level")
    schemas = ("responseSchema" in config) + ("responseJsonSchema" in config)
    demand(schemas <= 1, BAD, "both schemas")
    demand(not schemas or config.get("responseMimeType") == "application/json", BAD, "response_schema needs application/json")
    check_schema(config.get("responseSchema", {}))


def check_schema(schema: Any, where: str = "schema") -> None:
    demand(isinstance(schema, dict), BAD, f"{where} is not an object")
    for name in schema:
        demand(name in SCHEMA, BAD, f"Unknown name \"{name}\" at '{where}': Cannot find field.")
    demand(schema.get("type", "STRING") in TYPES, BAD, f"Invalid value at '{where}.type'")
    demand(all(isinstance(value, str) for value in schema.get("enum", [])), BAD, f"Invalid value at '{where}.enum'")
    demand("enum" not in schema or schema.get("type") == "STRING", BAD, f"{where}.enum: only allowed for STRING type")
    demand(schema.get("format") in (None, "enum", "date-time", "float", "double", "int32", "int64"), BAD, f"{where}.format")
    for name, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{where}.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}.items")
    for inner in schema.get("anyOf", []):
        check_schema(inner, f"{where}.any_of")


def check_tools(body: dict[str, Any]) -> None:
    names = []
    for tool in body.get("tools", []):
        demand(
            set(tool) <= {"functionDeclarations", "googleSearch", "codeExecution", "urlContext"},
            BAD,
            f"Unknown tool {set(tool)}",
        )
        for function in tool.get("functionDeclarations", []):
            extra = set(function) - {"name", "description", "parameters", "parametersJsonSchema"}
            demand(not extra, BAD, f"Unknown name \"{extra}\" at 'tools[0].function_declarations[0]'")
            demand(
                re.fullmatch(r"[a-zA-Z_][\w.:-]{0,63}", function["name"]),
                BAD,
                "function_declarations.name: Invalid function name.",
            )
            check_schema(function.get("parameters", {}), "parameters")
            parameters = function.get("parameters")
            demand(
                parameters is None or parameters.get("properties"),
                BAD,
                "parameters.properties: should be non-empty for OBJECT type",
            )
            names.append(function["name"])
    config = body.get("toolConfig", {}).get("functionCallingConfig")
    if config is not None:
        demand(config.get("mode") in ("AUTO", "ANY", "NONE"), BAD, "function_calling_config.mode")
        allowed = config.get("allowedFunctionNames", [])
        demand(not allowed or config["mode"] == "ANY", BAD, "allowed_function_names: only with mode ANY")
        demand(set(allowed) <= set(names), BAD, "allowed_function_names: no such function")


def last_text(body: dict[str, Any]) -> str:
    """The last text of the user's."""
    texts = [part["text"] for part in body["contents"][-1]["parts"] if "text" in part]
    return texts[-1] if texts else ""


def reply_to(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """(parts, finish reason)."""
    out: list[dict[str, Any]] = []
    config = body.get("generationConfig", {})
    if config.get("thinkingConfig", {}).get("includeThoughts"):
        out.append({"text": "Let me see: " + last_text(body)[:20], "thought": True})
    declared = [f for tool in body.get("tools", []) for f in tool.get("functionDeclarations", [])]
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {"mode": "AUTO"})
    heard = [p["functionResponse"]["response"] for p in body["contents"][-1]["parts"] if "functionResponse" in p]
    named = [f for f in declared if f["name"] in last_text(body) or calling["mode"] == "ANY"]
    if "allowedFunctionNames" in calling:
        named = [f for f in declared if f["name"] in calling["allowedFunctionNames"]]
    if named and not heard and calling["mode"] != "NONE":
        calls = [
            {"functionCall": {"name": f["name"], "args": made_up(f.get("parameters", f.get("parametersJsonSchema", {})))}}
            for f in named
        ]
        calls[0]["thoughtSignature"] = sign(named[0]["name"])
        return [*out, *calls], "STOP"
    if heard:
        words = [str(r.get("result", r.get("error", json.dumps(r)))) for r in heard]
        return [*out, {"text": "The tools said: " + "; ".join(words)}], "STOP"
    if config.get("responseMimeType") == "application/json":
        schema = config.get("responseSchema", config.get("responseJsonSchema", {"type": "object"}))
        return [*out, {"text": json.dumps(made_up(schema))}], "STOP"
    return spoken(body, out)


def spoken(body: dict[str, Any], out: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """An answer in words, signed at its end."""
    config = body.get("generationConfig", {})
    text = f"You said: {last_text(body)}"
    for stop in config.get("stopSequences", []):
        text = text.partition(stop)[0] or "…"
    words = text.split(" ")
    if len(words) > config.get("maxOutputTokens", 1e9):
        return [*out, {"text": " ".join(words[: config["maxOutputTokens"]])}], "MAX_TOKENS"
    return [*out, {"text": text}, {"text": "", "thoughtSignature": sign(text)}], "STOP"


def made_up(schema: dict[str, Any]) -> Any:
    """A value of a schema of either kind."""
    return made_up_json(
        json.loads(re.sub(r'"type": "([A-Z]+)"', lambda m: m[0].lower(), json.dumps({"type": "object", **schema})))
    )


def usage_for(body: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, int]:
    """What it took."""
    thought = sum(len(p["text"]) // 4 + 1 for p in parts if p.get("thought"))
    made = max(1, len(json.dumps(parts)) // 4)
    sent = len(json.dumps(body["contents"])) // 4
    out = {"promptTokenCount": sent, "candidatesTokenCount": made, "totalTokenCount": sent + made + thought}
    if thought:
        out["thoughtsTokenCount"] = thought
    if "cachedContent" in body:
        out["cachedContentTokenCount"] = sent // 2
    return out


def said(parts: list[dict[str, Any]], reason: str, *, usage: Any = None, stream: bool = False, **more: Any) -> Answer:
    """An answer, whole or streamed."""
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7} if usage is None else usage
    base = {"modelVersion": "gemini-2.5-pro", "responseId": "resp-1", **more}
    if not stream:
        candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}
        return Answer(body=json.dumps({"candidates": [candidate], "usageMetadata": usage, **base}).encode())
    events = []
    pieces = [piece for part in parts for piece in pieces_of(part)] or [None]
    for place, piece in enumerate(pieces):
        candidate = {"content": {"parts": [piece] if piece else [], "role": "model"}, "index": 0}
        counted = (
            {**usage, "candidatesTokenCount": place + 1}
            if isinstance(usage, dict) and "candidatesTokenCount" in usage
            else usage
        )
        if place == len(pieces) - 1:
            candidate["finishReason"], counted = reason, usage
        events.append(event({"candidates": [candidate], "usageMetadata": counted, **base}))
    return Answer(headers={"content-type": "text/event-stream"}, pieces=events)


def event(data: Any) -> bytes:
    """One stream event, with the line ends that the API has."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\r\n\r\n"


def pieces_of(part: dict[str, Any], size: int = 8) -> list[dict[str, Any]]:
    """Text comes in pieces, function calls whole."""
    text = part.get("text")
    size = max(size, len(text or "") // 50)
    return [{**part, "text": text[i : i + size]} for i in range(0, len(text), size)] if text else [part]
