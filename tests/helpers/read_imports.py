"""Reads what a module imports from its text, without running it."""

import ast


def imports(source, module, is_package=False):
    """All dotted names that a module of ours imports, anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if called in ("import_module", "__import__"):
                literal = node.args[0].value if isinstance(node.args[0], ast.Constant) else "."
                # A computed or relative name could be any module of ours.
                names.add("gaussreg_fast.<computed>" if literal.startswith(".") else literal)
    return names
