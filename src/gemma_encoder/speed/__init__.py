"""How fast a trained folder scores texts: this package, other programs on the same folder, and the limit."""
