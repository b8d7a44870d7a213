"""What was sent to an upstream, read back into one plain form, by nobody who wrote it: the other half of "both ways".

A turn is (role, items); an item is ("text", words), ("data", media type or format, base64), ("url", address),
("call", name, arguments) or ("result", words, failed).
"""

import json


def anthropic(body):
    """(system texts, turns, stops, names of tools)."""
    turns = [(m["role"], [_anthropic(b) for b in m["content"]]) for m in body["messages"]]
    return (
        [b["text"] for b in body.get("system") or []],
        turns,
        body.get("stop_sequences", []),
        [t["name"] for t in body.get("tools", [])],
    )


def _anthropic(block):
    kind = block["type"]
    if kind == "text":
        return ("text", block["text"])
    if kind == "image":
        source = block["source"]
        return ("url", source["url"]) if source["type"] == "url" else ("data", source["media_type"], source["data"])
    if kind == "tool_use":
        return ("call", block["name"], block["input"])
    return ("result", "".join(b["text"] for b in block.get("content", [])), block.get("is_error", False))


def gemini(body):
    """The same of Gemini."""
    roles = {"user": "user", "model": "assistant"}
    turns = [(roles[c["role"]], [_gemini(p) for p in c["parts"]]) for c in body["contents"]]
    return (
        [p["text"] for p in body.get("systemInstruction", {}).get("parts", [])],
        turns,
        body.get("generationConfig", {}).get("stopSequences", []),
        [f["name"] for t in body.get("tools", []) for f in t["functionDeclarations"]],
    )


def _gemini(part):
    if "text" in part:
        return ("text", part["text"])
    if "inlineData" in part:
        return ("data", part["inlineData"]["mimeType"], part["inlineData"]["data"])
    if "fileData" in part:
        return ("url", part["fileData"]["fileUri"])
    if "functionCall" in part:
        return ("call", part["functionCall"]["name"], part["functionCall"]["args"])
    response = part["functionResponse"]["response"]
    if "error" in response:
        return ("result", response["error"], True)
    return ("result", response.get("result", json.dumps(response)), False)


def bedrock(body):
    """The same of Bedrock."""
    turns = [(m["role"], [_bedrock(b) for b in m["content"]]) for m in body["messages"]]
    return (
        [b["text"] for b in body.get("system", [])],
        turns,
        body.get("inferenceConfig", {}).get("stopSequences", []),
        [t["toolSpec"]["name"] for t in body.get("toolConfig", {}).get("tools", [])],
    )


def _bedrock(block):
    if "text" in block:
        return ("text", block["text"])
    if "image" in block:
        source = block["image"]["source"]
        data = source.get("bytes")
        return ("data", "image/" + block["image"]["format"], data) if data else ("url", source["s3Location"]["uri"])
    if "toolUse" in block:
        return ("call", block["toolUse"]["name"], block["toolUse"]["input"])
    result = block["toolResult"]
    return ("result", "".join(b["text"] for b in result["content"]), result.get("status") == "error")
