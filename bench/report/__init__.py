"""`python -m bench report` and `profile`: one machine measured, in tables and plots."""
