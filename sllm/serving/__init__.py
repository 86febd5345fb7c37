"""Models behind HTTP: what is asked and answered (`protocol`), who writes when (`engine`), the pages (`app`)."""
