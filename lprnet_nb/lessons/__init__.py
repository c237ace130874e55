"""Helpers of the notebooks: those of notebook N in the file of its name, their pieces, widgets."""
