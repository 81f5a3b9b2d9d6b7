"""Hints of the core speak of options of its command line; the window has buttons for them."""

from slicer.i18n import tr as _

_WORDS = (
    ("Use --device cpu, or --fast.", _("Choose the device Processor (CPU), or Fast, under Advanced.")),
    ("segment with --fast", _("choose Fast under Advanced")),
    ("Raise --memory-gb, or use --fast.", _("Choose Fast under Advanced.")),
    ("Use --device cpu.", _("Choose the device Processor (CPU) under Advanced.")),
    ("Run the command again with --debug to see where it happened.", _("Copy the log below when you report this.")),
)


def windowHint(hint: str) -> str:
    """`hint` in the words of the window; one that speaks of an option without a button is left out."""
    for core, window in _WORDS:
        hint = hint.replace(core, window)
    return "" if "--" in hint else hint
