"""Arithmetic expressions: text -> tree -> value. A recursive-descent parser with bounds on depth, size and result.

sum     = term (("+" | "-") term)*
term    = factor (("*" | "/" | implicit) factor)*
factor  = "-" factor | power
power   = postfix ("^" factor)?
postfix = atom "%"*
atom    = number | variable | "sqrt" atom | "(" sum ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

MAX_TOKENS = 400
MAX_DEPTH = 40
MAX_BITS = 2048

Value = TypeVar("Value", Fraction, float)
_TOKEN = re.compile(r"\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|sqrt|[a-z]|\*\*|[-+*/^()%])")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


class BadExpression(ValueError):
    """Not an expression, or one that is out of bounds; the message says which."""


@dataclass(frozen=True, slots=True)
class Node:
    """A tree: `op` is "num", "var", "neg", "pct", "sqrt" or a binary operator."""

    op: str
    text: str = ""
    left: Node | None = None
    right: Node | None = None


def tokens_of(text: str) -> list[str]:
    """The tokens; raises BadExpression at anything that is not part of an expression."""
    text = text.translate(_SIGNS).strip()
    out: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(out) == MAX_TOKENS:
            raise BadExpression("is not an expression" if match is None else "is too long")
        out.append(match.group(1))
        at = match.end()
    return out


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadExpression("is nested too deeply")
        node = self.term()
        while self.peek() in ("+", "-"):
            node = Node(self.take(), left=node, right=self.term())
        self.depth -= 1
        return node

    def term(self) -> Node:
        node = self.factor()
        while piece := self.peek():
            if piece in ("*", "/"):
                node = Node(self.take(), left=node, right=self.factor())
            elif piece == "(" or piece.isalpha():
                node = Node("*", left=node, right=self.factor())
            else:
                break
        return node

    def factor(self) -> Node:
        signs = 0
        while self.peek() == "-":
            self.take()
            signs += 1
        node = self.power()
        return Node("neg", left=node) if signs % 2 else node

    def power(self) -> Node:
        node = self.postfix()
        if self.peek() not in ("^", "**"):
            return node
        self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadExpression("is nested too deeply")
        node = Node("^", left=node, right=self.factor())
        self.depth -= 1
        return node

    def postfix(self) -> Node:
        node = self.atom()
        while self.peek() == "%":
            self.take()
            node = Node("pct", left=node)
        return node

    def atom(self) -> Node:
        piece = self.take()
        if piece == "(":
            node = self.sum()
            if self.take() != ")":
                raise BadExpression("has an unclosed parenthesis")
            return node
        if piece == "sqrt":
            return Node("sqrt", left=self.atom())
        if not piece or piece in "+-*/^)%**":
            raise BadExpression("has an operator without a number")
        return Node("var" if piece.isalpha() else "num", piece)


def parse(text: str) -> Node:
    """The tree of an expression; raises BadExpression."""
    parser = _Parser(tokens_of(text))
    node = parser.sum()
    if parser.peek():
        raise BadExpression("has two numbers without an operator between them")
    return node


def variables(node: Node | None) -> set[str]:
    """The letters that stand for unknowns."""
    if node is None:
        return set()
    return {node.text} if node.op == "var" else variables(node.left) | variables(node.right)


def operators(node: Node | None) -> int:
    """How many operations a tree holds; a bare sign or per cent is none, it is part of its number."""
    if node is None or node.op in ("num", "var"):
        return 0
    return (node.op not in ("neg", "pct")) + operators(node.left) + operators(node.right)


def evaluate(node: Node, read: Callable[[str], Value], env: Mapping[str, Value]) -> Value:
    """The value of a tree, in exact fractions or in doubles, as `read` makes them of digits.

    Raises BadExpression for a division by zero, an unknown variable and whatever grows out of bounds.
    """
    if node.op == "num":
        return read(node.text.replace(",", ""))
    if node.op == "var":
        if node.text not in env:
            raise BadExpression("has an unknown")
        return env[node.text]
    assert node.left is not None
    left = evaluate(node.left, read, env)
    if node.right is None:
        return _unary(node.op, left)
    right = evaluate(node.right, read, env)
    try:
        return _bounded(_binary(node.op, left, right))
    except ZeroDivisionError:
        raise BadExpression("divides by zero") from None
    except OverflowError:
        raise BadExpression("is too large") from None


def exact(node: Node, env: Mapping[str, Fraction] | None = None) -> Fraction:
    """The exact value."""
    return evaluate(node, Fraction, env or {})


def rounded(node: Node) -> float:
    """The value in double precision."""
    return evaluate(node, float, {})


def _sqrt(value: Value) -> Value:
    if value < 0:
        raise BadExpression("takes the root of a negative number")
    if isinstance(value, float):
        return math.sqrt(value)
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return Fraction(top, bottom)
    try:
        return Fraction(math.sqrt(value))
    except OverflowError:
        raise BadExpression("is too large") from None


def _unary(op: str, value: Value) -> Value:
    if op == "neg":
        return -value
    return value / 100 if op == "pct" else _sqrt(value)


def _binary(op: str, left: Value, right: Value) -> Value:
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    if op == "/":
        return left / right
    return _power(left, right)


def _power(base: Value, exponent: Value) -> Value:
    whole = exponent == int(exponent)
    if not whole and base < 0:
        raise BadExpression("takes the root of a negative number")
    if isinstance(base, float):
        return float(base**exponent)
    if not whole:
        return Fraction(float(base) ** float(exponent))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise BadExpression("is too large")
    return Fraction(base ** int(exponent))


def _bounded(value: Value) -> Value:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadExpression("is too large")
    elif max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * MAX_BITS:
        raise BadExpression("is too large")
    return value
