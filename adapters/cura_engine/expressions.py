"""Evaluate the value expressions of Cura's setting definitions.

The definitions write derived values as small Python expressions ("math.ceil(speed_print * 40 / 70)"). They
come from files on the machine, so they are not handed to `eval`: this walks the syntax tree and knows only
the node kinds and functions those files use. Anything else is an error, never a guess.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

Lookup = Callable[[str], object]

_MAX_POWER = 64

_BINARY: Mapping[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[..., object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, box: item in box,
    ast.NotIn: lambda item, box: item not in box,
}
_UNARY: Mapping[type[ast.unaryop], Callable[..., object]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_PLAIN_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "abs": abs,
    "all": all,
    "any": any,
    "bool": bool,
    "float": float,
    "int": int,
    "len": len,
    "map": lambda function, items: [function(item) for item in items],
    "max": max,
    "min": min,
    "round": round,
    "str": str,
    "sum": sum,
    "math.atan": math.atan,
    "math.ceil": math.ceil,
    "math.cos": math.cos,
    "math.floor": math.floor,
    "math.log": math.log,
    "math.pow": math.pow,
    "math.radians": math.radians,
    "math.sin": math.sin,
    "math.sqrt": math.sqrt,
    "math.tan": math.tan,
}
_CONSTANTS: Mapping[str, object] = {"math.pi": math.pi, "True": True, "False": False, "None": None}


class ExpressionError(Exception):
    """The expression uses something unknown, or failed while it was computed."""


class Evaluator:
    """Evaluates expressions against one flat stack of settings.

    `lookup` returns the value of a setting by key and raises KeyError for an unknown one. The functions of
    Cura's front end that speak of extruders answer for the single extruder of this stack: with one extruder
    there is nothing else they could mean.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._functions: dict[str, Callable[..., object]] = {
            **_PLAIN_FUNCTIONS,
            "extruderValue": lambda _extruder, key: lookup(str(key)),
            "extruderValues": lambda key: [lookup(str(key))],
            "resolveOrValue": lambda key: lookup(str(key)),
            "defaultExtruderPosition": lambda: "0",
            # Cura 5: the same questions asked of a named container of the stack
            "valueFromContainer": lambda key, _container=None: lookup(str(key)),
            "extruderValueFromContainer": lambda _extruder, key, _container=None: lookup(str(key)),
            "anyExtruderWithMaterial": lambda _key=None: "0",
            "anyExtruderNrWithOrDefault": lambda _key=None: "0",
        }

    def evaluate(self, expression: str) -> object:
        """Value of one expression. Raises ExpressionError."""
        try:
            tree = ast.parse(expression.strip(), mode="eval")
            return self._value(tree.body, {})
        except ExpressionError:
            raise
        except KeyError as error:
            raise ExpressionError(f"unknown setting {error} in '{expression}'") from error
        except (SyntaxError, TypeError, ValueError, ArithmeticError, IndexError) as error:
            raise ExpressionError(f"'{expression}' cannot be computed: {error}") from error

    def _value(self, node: ast.expr, names: Mapping[str, object]) -> object:
        handler = getattr(self, f"_on_{type(node).__name__.lower()}", None)
        if handler is None:
            raise ExpressionError(f"{type(node).__name__} is not allowed in a setting expression")
        return handler(node, names)

    def _on_constant(self, node: ast.Constant, _names: Mapping[str, object]) -> object:
        return node.value

    def _on_name(self, node: ast.Name, names: Mapping[str, object]) -> object:
        if node.id in names:
            return names[node.id]
        if node.id in self._functions:
            return self._functions[node.id]
        return self._lookup(node.id)

    def _on_attribute(self, node: ast.Attribute, _names: Mapping[str, object]) -> object:
        name = ast.unparse(node)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        raise ExpressionError(f"'{name}' is not allowed in a setting expression")

    def _on_binop(self, node: ast.BinOp, names: Mapping[str, object]) -> object:
        left, right = self._value(node.left, names), self._value(node.right, names)
        if isinstance(node.op, ast.Pow):
            if (
                not (isinstance(left, int | float) and isinstance(right, int | float))
                or abs(right) > _MAX_POWER
            ):
                raise ExpressionError("a power of this size is not allowed in a setting expression")
            return left**right
        if isinstance(node.op, ast.Mult) and not (
            isinstance(left, int | float) and isinstance(right, int | float)
        ):
            raise ExpressionError("only numbers may be multiplied in a setting expression")
        if type(node.op) not in _BINARY:
            raise ExpressionError(f"operator {type(node.op).__name__} is not allowed")
        return _BINARY[type(node.op)](left, right)

    def _on_unaryop(self, node: ast.UnaryOp, names: Mapping[str, object]) -> object:
        if type(node.op) not in _UNARY:
            raise ExpressionError(f"operator {type(node.op).__name__} is not allowed")
        return _UNARY[type(node.op)](self._value(node.operand, names))

    def _on_boolop(self, node: ast.BoolOp, names: Mapping[str, object]) -> object:
        stop_at = isinstance(node.op, ast.Or)
        value: object = None
        for item in node.values:
            value = self._value(item, names)
            if bool(value) is stop_at:
                break
        return value

    def _on_compare(self, node: ast.Compare, names: Mapping[str, object]) -> object:
        left = self._value(node.left, names)
        for operation, item in zip(node.ops, node.comparators, strict=True):
            right = self._value(item, names)
            if not _COMPARE[type(operation)](left, right):
                return False
            left = right
        return True

    def _on_ifexp(self, node: ast.IfExp, names: Mapping[str, object]) -> object:
        return self._value(node.body if self._value(node.test, names) else node.orelse, names)

    def _on_list(self, node: ast.List, names: Mapping[str, object]) -> object:
        return [self._value(item, names) for item in node.elts]

    def _on_tuple(self, node: ast.Tuple, names: Mapping[str, object]) -> object:
        return tuple(self._value(item, names) for item in node.elts)

    def _on_subscript(self, node: ast.Subscript, names: Mapping[str, object]) -> object:
        box, index = self._value(node.value, names), self._value(node.slice, names)
        if not isinstance(box, list | tuple | str) or not isinstance(index, int):
            raise ExpressionError("only lists may be indexed in a setting expression")
        return box[index]

    def _on_generatorexp(self, node: ast.GeneratorExp, names: Mapping[str, object]) -> object:
        return self._comprehend(node.elt, node.generators, names)

    def _on_listcomp(self, node: ast.ListComp, names: Mapping[str, object]) -> object:
        return self._comprehend(node.elt, node.generators, names)

    def _comprehend(
        self, element: ast.expr, generators: list[ast.comprehension], names: Mapping[str, object]
    ) -> list[object]:
        if len(generators) != 1 or not isinstance(generators[0].target, ast.Name):
            raise ExpressionError("only a plain comprehension is allowed in a setting expression")
        loop, target = generators[0], generators[0].target.id
        items = self._value(loop.iter, names)
        if not isinstance(items, list | tuple):
            raise ExpressionError("a comprehension must run over a list")
        found: list[object] = []
        for item in items:
            inner = {**names, target: item}
            if all(self._value(test, inner) for test in loop.ifs):
                found.append(self._value(element, inner))
        return found

    def _on_call(self, node: ast.Call, names: Mapping[str, object]) -> object:
        name = ast.unparse(node.func)
        if name not in self._functions or node.keywords:
            raise ExpressionError(f"'{name}' may not be called in a setting expression")
        return self._functions[name](*(self._value(argument, names) for argument in node.args))
