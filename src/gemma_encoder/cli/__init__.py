"""The command `gemma-encoder`: one thin file per verb; the entry point is `main.main`."""
