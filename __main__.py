"""``python -m turnrl`` is the ``turnrl`` command."""

from .cli.main import main

main()
