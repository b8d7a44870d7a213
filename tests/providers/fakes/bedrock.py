"""A fake of Amazon Bedrock's Converse API: it verifies signatures by its own arithmetic and checks shapes as the public model
of the service states them. Its answers are those of the Anthropic fake, in Converse's words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
import zlib
from typing import Any
from urllib.parse import quote, unquote

from .anthropic import made_up, sign
from .serving import Answer, FakeServer, Refused, Seen, demand

ACCESS_KEY, SECRET_KEY, SESSION_TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token-secret"
BAD = "ValidationException"
FIELDS = {
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields", "promptVariables",
    "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "serviceTier", "outputConfig",
}  # fmt: skip
FORMATS = {
    "image": {"png", "jpeg", "gif", "webp"},
    "document": {"pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"},
    "video": {"mkv", "mov", "mp4", "webm", "flv", "mpeg", "mpg", "wmv", "three_gp"},
    "audio": {"mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "m4a", "pcm", "webm"},
}
BLOCKS = {"text", "toolUse", "toolResult", "reasoningContent", "cachePoint", "guardContent", *FORMATS}


def verify(seen: Seen, region: str) -> None:
    """The signature, computed again from what came in."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/bedrock/aws4_request, "
        r"SignedHeaders=([\w;-]+), Signature=([0-9a-f]{64})",
        seen.headers.get("authorization", ""),
    )
    demand(found, "MissingAuthenticationTokenException", "Missing Authentication Token", 403)
    who, day, where, names, signature = found.groups()
    demand(
        who == ACCESS_KEY, "UnrecognizedClientException", f"The security token {who} included in the request is invalid.", 403
    )
    token = seen.headers.get("x-amz-security-token", SESSION_TOKEN)
    demand(token == SESSION_TOKEN, "ExpiredTokenException", f"The security token {token} is expired", 403)
    demand({"host", "x-amz-date"} <= set(names.split(";")), "InvalidSignatureException", "'Host' must be signed", 403)
    stamp = seen.headers["x-amz-date"]
    demand(
        where == region and stamp.startswith(day),
        "InvalidSignatureException",
        "Credential should be scoped to a valid region",
        403,
    )
    lines = "".join(f"{name}:{seen.headers[name]}\n" for name in names.split(";"))
    hashed = hashlib.sha256(seen.body).hexdigest()
    asked = f"POST\n{quote(seen.path, safe='/-_.~')}\n{seen.query}\n{lines}\n{names}\n{hashed}"
    scope = f"{day}/{where}/bedrock/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = ("AWS4" + SECRET_KEY).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    right = hmac.digest(key, text.encode(), "sha256").hex()
    demand(right == signature, "InvalidSignatureException", "The request signature we calculated does not match", 403)


class FakeBedrock(FakeServer):
    """`POST /model/NAME/converse` and `/converse-stream`."""

    region = "eu-central-1"

    def check(self, seen: Seen) -> None:
        if seen.headers.get("authorization") != "Bearer bedrock-api-key":
            verify(seen, self.region)
        found = re.fullmatch(r"/model/([^/]+)/converse(-stream)?", seen.path)
        demand(found and seen.method == "POST", "UnknownOperationException", "Unknown operation", 404)
        demand(":" not in found[1], "UnknownOperationException", "the name of the model is not quoted", 404)
        demand(unquote(found[1]) != "no-such-model", "ResourceNotFoundException", "Could not resolve the foundation model", 404)
        demand(seen.headers.get("content-type") == "application/json", "UnsupportedMediaType", "application/json", 415)
        try:
            body = seen.json
        except ValueError:
            raise Refused(400, "SerializationException", "Unexpected token") from None
        check_body(body)

    def refusal(self, error: Refused) -> Answer:
        return failure(error.status, error.kind, error.message)

    def answer(self, seen: Seen) -> Answer:
        blocks, reason = reply_to(seen.json)
        return said(blocks, reason, usage=usage_for(seen.json, blocks), stream=seen.path.endswith("-stream"))


def failure(status: int, kind: str, message: str, **headers: str) -> Answer:
    """An error answer: its name is in a header."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"message": message}).encode(), {"x-amzn-errortype": f"{kind}:http://aws/", **more})


def check_body(body: Any) -> None:
    """The body of a call."""
    demand(isinstance(body, dict), "SerializationException", "not an object")
    for name in body:
        demand(name in FIELDS, BAD, f"Unknown field {name}")
    demand(body.get("messages"), BAD, "A conversation must start with a user message.")
    demand(body["messages"][0]["role"] == "user", BAD, "A conversation must start with a user message.")
    for block in body.get("system", []):
        demand(set(block) in ({"text"}, {"cachePoint"}), BAD, "system: unknown block")
        demand(block.get("text", "x").strip(), BAD, "The text field in the ContentBlock object at system is blank.")
    check_config(body)
    check_tools(body)
    waiting: list[str] = []
    documents: list[str] = []
    for place, message in enumerate(body["messages"]):
        demand(
            message["role"] == ("user", "assistant")[place % 2],
            BAD,
            "A conversation must alternate between user and assistant roles.",
        )
        demand(message.get("content"), BAD, f"The content field in the Message object at messages.{place} is empty.")
        for block in message["content"]:
            check_block(f"messages.{place}", block, documents)
        waiting = check_pairs(place, message, waiting)
    demand(not waiting, BAD, f"Expected toolResult blocks for the following Ids: {waiting}")
    spoke = any("toolUse" in block or "toolResult" in block for message in body["messages"] for block in message["content"])
    demand(
        not spoke or "toolConfig" in body,
        BAD,
        "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
    )


def check_config(body: dict[str, Any]) -> None:
    config = body.get("inferenceConfig", {})
    demand(set(config) <= {"maxTokens", "temperature", "topP", "stopSequences"}, BAD, "inferenceConfig: unknown field")
    demand(config.get("maxTokens", 1) >= 1, BAD, "inferenceConfig.maxTokens: must be greater than or equal to 1")
    demand(0 <= config.get("temperature", 0) <= 1, BAD, "inferenceConfig.temperature: must be less than or equal to 1")
    output = body.get("outputConfig", {})
    demand(set(output) <= {"textFormat", "effort"}, BAD, "outputConfig: unknown field")
    if "textFormat" in output:
        found = output["textFormat"]["structure"]["jsonSchema"]
        demand(
            output["textFormat"]["type"] == "json_schema" and set(found) <= {"schema", "name", "description"},
            BAD,
            "outputConfig",
        )
        demand(isinstance(json.loads(found["schema"]), dict), BAD, "outputConfig: the schema is JSON text")
    thinking = body.get("additionalModelRequestFields", {}).get("thinking", {"type": "disabled"})
    if thinking["type"] == "enabled":
        demand(
            1024 <= thinking["budget_tokens"] < config.get("maxTokens", 4096),
            BAD,
            "max_tokens must be greater than budget_tokens",
        )
        forced = set(body.get("toolConfig", {}).get("toolChoice", {})) & {"any", "tool"}
        demand(not forced, BAD, "Thinking may not be enabled when tool_choice forces tool use.")


def check_tools(body: dict[str, Any]) -> None:
    if "toolConfig" not in body:
        return
    config = body["toolConfig"]
    demand(set(config) <= {"tools", "toolChoice"} and config.get("tools"), BAD, "toolConfig.tools: at least 1")
    names = []
    for tool in config["tools"]:
        demand(set(tool) in ({"toolSpec"}, {"cachePoint"}), BAD, "toolConfig.tools: unknown tool")
        if "toolSpec" in tool:
            spec = tool["toolSpec"]
            demand(set(spec) <= {"name", "description", "inputSchema", "strict"}, BAD, "toolSpec: unknown field")
            demand(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", spec["name"]), BAD, "toolSpec.name: wrong pattern")
            demand(spec.get("description", "x"), BAD, "toolSpec.description: at least 1 character")
            demand(spec["inputSchema"]["json"].get("type") == "object", BAD, "toolSpec.inputSchema.json.type must be object")
            names.append(spec["name"])
    choice = config.get("toolChoice", {"auto": {}})
    demand(len(choice) == 1 and set(choice) <= {"auto", "any", "tool"}, BAD, "toolConfig.toolChoice: union")
    demand("tool" not in choice or choice["tool"]["name"] in names, BAD, "toolChoice.tool.name: no such tool")


def check_block(where: str, block: Any, documents: list[str]) -> None:
    demand(isinstance(block, dict) and len(block) == 1 and set(block) <= BLOCKS, BAD, f"{where}: unknown content block {block}")
    ((kind, found),) = block.items()
    if kind == "text":
        demand(found.strip(), BAD, f"The text field in the ContentBlock object at {where} is blank.")
    elif kind in FORMATS:
        demand(found.get("format") in FORMATS[kind], BAD, f"{where}.{kind}.format: enum")
        source = found["source"]
        demand(len(source) == 1 and set(source) <= {"bytes", "s3Location", "text"}, BAD, f"{where}.{kind}.source: union")
        base64.b64decode(source.get("bytes", ""), validate=True)
        if kind == "document":
            name = found.get("name", "")
            demand(
                re.fullmatch(r"(?!.*\s{2})[a-zA-Z0-9\s\-()\[\]]{1,200}", name), BAD, f"{where}.document.name: wrong characters"
            )
            demand(name not in documents, BAD, f"{where}: documents have the same name {name}")
            documents.append(name)
    elif kind in ("toolUse", "toolResult"):
        demand(re.fullmatch(r"[a-zA-Z0-9_.:-]{1,64}", found["toolUseId"]), BAD, f"{where}.{kind}.toolUseId: wrong pattern")
        if kind == "toolUse":
            demand(isinstance(found["input"], dict), BAD, f"{where}.toolUse.input: not an object")
        else:
            for inner in found["content"]:
                demand(
                    set(inner) <= {"text", "json", "image", "document", "video"},
                    BAD,
                    f"{where}.toolResult.content: unknown block",
                )
    elif kind == "reasoningContent" and "reasoningText" in found:
        text = found["reasoningText"]
        demand(text.get("signature") == sign(text["text"]), BAD, f"{where}: Invalid `signature` in `thinking` block")


def check_pairs(place: int, message: dict[str, Any], waiting: list[str]) -> list[str]:
    results = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
    more = "The number of toolResult blocks exceeds the number of toolUse blocks of previous turn."
    demand(set(results) <= set(waiting), BAD, f"messages.{place}: {more}")
    demand(
        not set(waiting) - set(results), BAD, f"Expected toolResult blocks at messages.{place} for the following Ids: {waiting}"
    )
    return [block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block]


def last_text(body: dict[str, Any]) -> str:
    """The last text of the user's."""
    texts = [block["text"] for block in body["messages"][-1]["content"] if "text" in block]
    return texts[-1] if texts else ""


def reply_to(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """(content blocks, stop reason)."""
    out: list[dict[str, Any]] = []
    if body.get("additionalModelRequestFields", {}).get("thinking", {}).get("type") == "enabled":
        thought = "Let me see: " + last_text(body)[:20]
        out.append({"reasoningContent": {"reasoningText": {"text": thought, "signature": sign(thought)}}})
    config = body.get("toolConfig", {})
    specs = [tool["toolSpec"] for tool in config.get("tools", []) if "toolSpec" in tool]
    choice = config.get("toolChoice", {"auto": {}})
    heard = [b["toolResult"]["content"] for b in body["messages"][-1]["content"] if "toolResult" in b]
    named = [spec for spec in specs if spec["name"] in last_text(body) or "any" in choice]
    if "tool" in choice:
        named = [spec for spec in specs if spec["name"] == choice["tool"]["name"]]
    if named and not heard:
        for place, spec in enumerate(named):
            out.append(
                {
                    "toolUse": {
                        "toolUseId": f"tooluse_{place}",
                        "name": spec["name"],
                        "input": made_up(spec["inputSchema"]["json"]),
                    }
                }
            )
        return out, "tool_use"
    if heard:
        return [
            *out,
            {"text": "The tools said: " + "; ".join(c["text"] for content in heard for c in content if "text" in c)},
        ], "end_turn"
    if "textFormat" in body.get("outputConfig", {}):
        schema = json.loads(body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
        return [*out, {"text": json.dumps(made_up(schema))}], "end_turn"
    return spoken(body, out)


def spoken(body: dict[str, Any], out: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """An answer in words."""
    config = body.get("inferenceConfig", {})
    text = f"You said: {last_text(body)}"
    for stop in config.get("stopSequences", []):
        if stop in text:
            return [*out, {"text": text.partition(stop)[0] or "…"}], "stop_sequence"
    words = text.split(" ")
    if len(words) > config.get("maxTokens", 1e9):
        return [*out, {"text": " ".join(words[: config["maxTokens"]])}], "max_tokens"
    return [*out, {"text": text}], "end_turn"


def usage_for(body: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, int]:
    """What it took: marked prompts are written to the cache and read from it."""
    sent, made = len(json.dumps(body["messages"])) // 4, max(1, len(json.dumps(blocks)) // 4)
    out = {"inputTokens": sent, "outputTokens": made, "totalTokens": sent + made}
    if "cachePoint" in json.dumps(body):
        out |= {"cacheReadInputTokens": 30, "cacheWriteInputTokens": 100, "totalTokens": sent + made + 130}
    return out


def said(blocks: list[dict[str, Any]], reason: str, *, usage: Any = None, stream: bool = False, **more: Any) -> Answer:
    """An answer, whole or streamed."""
    usage = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7} if usage is None else usage
    if not stream:
        body = {"output": {"message": {"role": "assistant", "content": blocks}}, "stopReason": reason, "usage": usage, **more}
        return Answer(body=json.dumps({**body, "metrics": {"latencyMs": 5}}).encode(), headers={"x-amzn-requestid": "r"})
    events = [event("messageStart", role="assistant")]
    for index, block in enumerate(blocks):
        events += [*block_events(index, block), event("contentBlockStop", contentBlockIndex=index)]
    events += [event("messageStop", stopReason=reason), event("metadata", usage=usage, metrics={"latencyMs": 5}, **more)]
    return Answer(headers={"content-type": "application/vnd.amazon.eventstream"}, pieces=events)


def framed(headers: dict[str, str], payload: bytes) -> bytes:
    """A message of the event stream, with both checksums."""
    head = b"".join(
        struct.pack(">B", len(name.encode())) + name.encode() + struct.pack(">BH", 7, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    start = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = start + struct.pack(">I", zlib.crc32(start)) + head + payload
    return body + struct.pack(">I", zlib.crc32(body))


def event(kind: str, **data: Any) -> bytes:
    """One event of a stream; `p` is the padding that the API adds."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return framed(headers, json.dumps({**data, "p": "abcdefgh"}, ensure_ascii=False).encode())


def exception(kind: str, message: str) -> bytes:
    """One exception of a stream."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return framed(headers, json.dumps({"message": message}).encode())


def block_events(index: int, block: dict[str, Any]) -> list[bytes]:
    """The events of one block; only tools are announced."""

    def delta(**what: Any) -> bytes:
        return event("contentBlockDelta", contentBlockIndex=index, delta=what)

    ((kind, found),) = block.items()
    if kind == "text":
        return [delta(text=piece) for piece in cut_text(found)]
    if kind == "toolUse":
        start = {"toolUseId": found["toolUseId"], "name": found["name"]}
        pieces = cut_text(json.dumps(found["input"])) if found["input"] else []
        return [
            event("contentBlockStart", contentBlockIndex=index, start={"toolUse": start}),
            *(delta(toolUse={"input": piece}) for piece in pieces),
        ]
    if kind == "reasoningContent" and "reasoningText" in found:
        text = found["reasoningText"]
        pieces = [delta(reasoningContent={"text": piece}) for piece in cut_text(text["text"])]
        return [*pieces, delta(reasoningContent={"signature": text["signature"]})]
    return [delta(**block)]


def cut_text(text: str) -> list[str]:
    """Text in pieces."""
    size = max(6, len(text) // 50)
    return [text[i : i + size] for i in range(0, len(text), size)]
