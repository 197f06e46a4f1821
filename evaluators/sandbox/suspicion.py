"""Means by which a program could forge its verdict from inside, or look for what it was not given."""

import ast

MEANS = {
    "_getframe", "_current_frames", "f_back", "f_globals", "f_locals", "tb_frame", "gi_frame", "cr_frame", "ag_frame",
    "gc", "ctypes", "_ctypes", "inspect", "_exit", "_Exit", "abort", "settrace", "setprofile", "set_trace", "atexit",
    "__eq__", "__ne__", "__subclasses__", "__globals__", "__builtins__", "__closure__", "__traceback__", "modules", "marshal",
    "excepthook", "sandbox", "verdict", "nonce", "SystemExit", "AssertionError",
}  # fmt: skip


def means(program: str) -> list[str]:
    """The names in a program that stand for such means, sorted; [] for a program that does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(program)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return sorted(MEANS & {name for node in nodes for name in _names(node)})


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.Import(names=names):
            return [part for alias in names for part in alias.name.split(".")]
        case ast.ImportFrom(module=module, names=names):
            return [*(module or "").split("."), *(alias.name for alias in names)]
        case ast.Constant(value=str() as text):  # getattr(sys, "_getframe")
            return [text]
    return []
