"""The command reference: a page, a man page and completion scripts, made from the commands themselves.

``python -m vfsmount.cli.reference`` in a checkout writes them; a test says when that is due.
"""
