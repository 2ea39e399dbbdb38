"""`python -m bench report` and `profile`: measure one machine, in tables and plots."""
