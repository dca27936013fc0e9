"""What a person or a program sees: results on stdout, everything else on stderr."""

from provenance.output.formats import (
    FORMATS,
    choose_format,
    print_arrow,
    print_json,
    print_rows,
    print_table,
    to_csv,
    to_json,
    to_ndjson,
)
from provenance.output.messages import note, say
from provenance.output.text import chance, clean, clean_lines, shorten, show, show_bytes

__all__ = [
    "FORMATS",
    "chance",
    "choose_format",
    "clean",
    "clean_lines",
    "note",
    "print_arrow",
    "print_json",
    "print_rows",
    "print_table",
    "say",
    "shorten",
    "show",
    "show_bytes",
    "to_csv",
    "to_json",
    "to_ndjson",
]
