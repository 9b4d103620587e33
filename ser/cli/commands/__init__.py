"""The subcommands of ``ser``: each module has ``add_arguments(parser)`` and ``run(args)``.

They are listed in ser/cli/main.py. What takes long to import is imported in ``run``.
"""
