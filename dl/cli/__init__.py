"""The commands of `python -m dl`, which find models by name and open their runs."""
