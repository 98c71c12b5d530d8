"""The study: arms along axes, trained on the same tasks and seeds, and compared with statistics."""
