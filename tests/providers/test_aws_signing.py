"""Signatures of the published AWS Signature Version 4 test suite."""

from datetime import UTC, datetime

import pytest

from junctor.providers.aws_signing import Credentials, Signer

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/"
    "qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT3"
    "8xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = {"host": "example.amazonaws.com"}
FORM = {**HOST, "content-type": "application/x-www-form-urlencoded"}
VECTORS = {
    "get-vanilla": ("GET", HOST, b"", (), "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": ("POST", HOST, b"", (), "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-vanilla-query-order-key-case": (
        "GET", HOST, b"", (("Param2", "value2"), ("Param1", "value1")), "",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-utf8-query": (
        "GET", HOST, b"", (("ሴ", "bar"),), "", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    "post-x-www-form-urlencoded": (
        "POST", FORM, b"Param1=value1", (), "", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    "post-sts-header-before": (
        "POST", HOST, b"", (), TOKEN, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_published_signatures(name):
    method, headers, body, query, token, signature = VECTORS[name]
    signer = Signer(Credentials(KEY, SECRET, token), "us-east-1", "service")
    for _ in range(2):
        made = signer.headers(method, "/", headers, body, query=query, now=NOW)
        assert made["authorization"].endswith(f"Signature={signature}")
    assert made["x-amz-date"] == "20150830T123600Z"
    assert made.get("x-amz-security-token", "") == token


def test_a_new_day_has_a_new_key():
    signer = Signer(Credentials(KEY, SECRET), "us-east-1", "service")
    days = [signer.headers("GET", "/", HOST, b"", now=NOW.replace(day=day))["authorization"] for day in (30, 31, 30)]
    assert days[0] == days[2] != days[1]


def test_nothing_of_it_is_shown():
    signer = Signer(Credentials(KEY, SECRET, TOKEN), "us-east-1", "service")
    assert not any(secret in repr(signer) + repr(vars(signer)["_who"]) for secret in (KEY, SECRET, TOKEN))
